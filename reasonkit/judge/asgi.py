"""`uvicorn reasonkit.judge.asgi:app`: one process, by the environment alone.

A token, if any, stands in REASONKIT_JUDGE_TOKEN.
"""

from __future__ import annotations

import os
from dataclasses import replace

from reasonkit.judge.app import create_app
from reasonkit.judge.settings import Settings, take_token

TOKEN_VARIABLE = "REASONKIT_JUDGE_TOKEN"

app = create_app(
    replace(
        Settings.from_environment(),
        token=take_token(TOKEN_VARIABLE) if TOKEN_VARIABLE in os.environ else "",
    )
)

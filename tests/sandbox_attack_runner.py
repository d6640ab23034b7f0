"""Runs every attack, or those named, on one tier: outcomes as JSON. A script, so that another user can start it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent.parent))

from reasonkit.sandbox.attacks import ATTACKS  # noqa: E402
from reasonkit.sandbox.local import LocalSandbox  # noqa: E402
from reasonkit.sandbox.probes import assail, open_scene  # noqa: E402
from tests.sandbox_more_attacks import MORE_ATTACKS  # noqa: E402

if __name__ == "__main__":
    with open_scene() as scene:
        sandbox = LocalSandbox(sys.argv[1], 1)
        chosen = [
            attack for attack in (*ATTACKS, *MORE_ATTACKS) if attack.name in sys.argv[2:] or not sys.argv[2:]
        ]
        outcomes = [asdict(assail(sandbox, scene, attack)) for attack in chosen]
        sandbox.close_blocking()
    print(json.dumps(outcomes))

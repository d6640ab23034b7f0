"""The real command with its verdicts from a reward server: `python remote_train.py URL -- ARGUMENTS`."""

from __future__ import annotations

import sys

import reasonkit.train.launch
from reasonkit.cli.app import main
from reasonkit.verifiers.remote import RemoteGrader

if __name__ == "__main__":
    url = sys.argv[1]
    reasonkit.train.launch.Grader = lambda: RemoteGrader(  # type: ignore[attr-defined,misc,assignment]
        url=url, patience=120, save_dir="asked"
    )
    sys.argv = ["reasonkit", *sys.argv[3:]]
    main()

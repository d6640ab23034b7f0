"""The real command where memory is scarce in the rehearsal: `python scarce_train.py ARGUMENTS`.

Every process of the learner has so many bytes left while it rehearses. Spawned ranks import this script.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from reasonkit.cli.app import main
from reasonkit.train.rank import Rank

LEFT = 256 * 2**20

rehearse = Rank.rehearse


def scarce(self: Rank, longest: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + LEFT, before[1]))
    try:
        rehearse(self, longest)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


Rank.rehearse = scarce  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.argv[0] = "reasonkit"
    main()

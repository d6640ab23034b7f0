"""Every random draw is seeded by what it is for, never by when it happens.

A seed is a hash of (run seed, purpose, step, record position, sample, …), so draws do not depend on
the order in which work finishes, on the number of workers, or on whether a run was resumed.
"""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, purpose: str, *parts: int | str) -> int:
    """A 63-bit seed for `purpose`, independent of every other purpose and of other `parts`."""
    text = "\x1f".join((str(seed), purpose, *map(str, parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

"""Logging: the standard library's, on stderr, one line a message. stdout belongs to results."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

ROOT = "reasonkit"


def configure(verbosity: int) -> None:
    """Set how much goes to stderr: -1 errors, 0 what a user should know, 1 detail, 2 everything."""
    levels = {-1: logging.ERROR, 0: logging.INFO, 1: logging.DEBUG}
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s" if verbosity < 1 else "%(name)s: %(message)s"))
    handler.setLevel(levels.get(verbosity, logging.DEBUG))
    logger = logging.getLogger(ROOT)
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    if verbosity >= 2:
        logging.getLogger().addHandler(handler)


def also_to(path: Path) -> logging.Handler:
    """Copy everything, with times, to a run's log file. Remove the handler when the run ends."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger(ROOT)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    return handler


def remove(handler: logging.Handler) -> None:
    logging.getLogger(ROOT).removeHandler(handler)
    handler.close()

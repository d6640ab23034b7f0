"""Where pulled and built data lives: one folder a name under REASONKIT_DATA, one parquet file a split.

    <home>/knights/train.parquet   test.parquet   dataset.json
    <home>/rg/leg_counting/…
    <home>/guru/math/…

Recipes and tasks look a name up here before they stream it. Nothing is read or written here; this module only
knows the names.
"""

from __future__ import annotations

import os
from pathlib import Path

from reasonkit.errors import UsageError

VARIABLE = "REASONKIT_DATA"
MANIFEST = "dataset.json"


def data_home() -> Path:
    return Path(os.environ.get(VARIABLE) or "~/.cache/reasonkit/data").expanduser()


def dataset_folder(name: str) -> Path:
    """The folder of a data set's name: `rg:leg_counting` is rg/leg_counting."""
    parts = name.replace(":", "/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise UsageError(f"'{name}' cannot be the name of a data set", "reasonkit list data")
    return data_home().joinpath(*parts)


def split_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.parquet"

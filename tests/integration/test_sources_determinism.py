"""The same name and seed give the same bytes in any process, whatever Python's hash seed."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reasonkit.data import build as building
from reasonkit.data.build import SOURCES, build, source_named
from reasonkit.data.files import write_records
from reasonkit.errors import ReasonkitError

SCRIPT = """
import sys
from pathlib import Path
from reasonkit.data.build import build
from reasonkit.data.files import write_records
write_records(build(sys.argv[1], "train", 120, 7), Path(sys.argv[2]))
"""


def test_files_are_byte_identical_across_processes_and_hash_seeds(tmp_path: Path) -> None:
    # word_ladder walks over sets of strings, so it is the case that a hash seed would show in.
    ours = [name for name in sorted(SOURCES) if "raw" not in source_named(name).settings.model_fields]
    name = ",".join([*ours, "rg:leg_counting", "rg:word_ladder"])
    written = []
    for hash_seed in ("1", "2"):
        path = tmp_path / f"{hash_seed}.parquet"
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", SCRIPT, name, str(path)], env=environment, check=True)
        written.append(path.read_bytes())
    assert written[0] == written[1]


@pytest.fixture
def small_mixtures_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes draw mixtures of any size."""
    monkeypatch.setattr(building, "WORTH_PROCESSES", 0)


MIXTURE = "knights=2,countdown,ordering,arithmetic_chain=3"


@pytest.mark.usefixtures("small_mixtures_too")
def test_several_processes_write_the_bytes_of_one(tmp_path: Path) -> None:
    settings = {"knights": {"people": [3, 4]}}
    for workers in (1, 2, 3):
        records = build(MIXTURE, "train", 700, 3, settings, workers=workers)
        write_records(records, tmp_path / f"{workers}.parquet")
    one = (tmp_path / "1.parquet").read_bytes()
    assert [(tmp_path / f"{workers}.parquet").read_bytes() for workers in (2, 3)] == [one, one]


@pytest.mark.usefixtures("small_mixtures_too")
def test_what_goes_wrong_in_a_process_is_raised_where_it_was_called(tmp_path: Path) -> None:
    impossible = {"arithmetic_chain": {"operations": 1}}
    messages = []
    for workers in (1, 2):
        with pytest.raises(ReasonkitError, match="different train problems") as caught:
            list(build("arithmetic_chain=9,knights", "train", 3000, 0, impossible, workers=workers))
        messages.append((caught.value.message, caught.value.hint))
    assert messages[0] == messages[1]


@pytest.mark.usefixtures("small_mixtures_too")
def test_a_mixture_that_is_left_early_leaves_no_process() -> None:
    records = build(MIXTURE, "train", 5000, 3, workers=2)
    assert len(list(itertools.islice(records, 5))) == 5
    assert len(multiprocessing.active_children()) == 2
    records.close()  # type: ignore[attr-defined]  # it is a generator
    assert multiprocessing.active_children() == []

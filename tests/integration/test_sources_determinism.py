"""The same name and seed give the same bytes in any process, whatever Python's hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from reasonkit.data.build import SOURCES, source_named

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

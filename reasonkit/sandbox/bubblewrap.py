"""The same worker inside bubblewrap, for machines where only bwrap may make namespaces.

Some distributions deny user namespaces to everyone but programs with a profile of their own, of which bwrap is
one. It then builds the walls that `worker.jail` builds elsewhere; Landlock, seccomp and limits stay the worker's.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from reasonkit.errors import ReasonkitError
from reasonkit.sandbox import toolchains

_BOX_BYTES = 640 << 20  # one tmpfs for all jobs of a worker, emptied between them
_SYSTEM_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d")
_NOBODY = 65534


def command(package: Path) -> list[str]:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise ReasonkitError("bubblewrap is not installed", "apt-get install bubblewrap")
    arguments = [bwrap, "--unshare-all", "--as-pid-1", "--ro-bind", "/usr", "/usr"]
    for folder in _SYSTEM_FOLDERS:
        if Path(folder).is_symlink():
            arguments += ["--symlink", str(Path(folder).readlink()), folder]
        elif Path(folder).is_dir():
            arguments += ["--ro-bind", folder, folder]
    java = [entry.name for entry in Path("/etc").iterdir() if entry.name.startswith("java-")]
    for folder in (*(f"/etc/{name}" for name in (*_ETC, *java)), str(package / "sandbox")):
        arguments += ["--ro-bind-try", folder, folder]
    for folder in toolchains.visible_folders():
        if os.geteuid() != 0 or toolchains.open_to_all(folder):
            arguments += ["--ro-bind", folder, folder]
    arguments += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    arguments += ["--size", str(_BOX_BYTES), "--tmpfs", "/box", "--remount-ro", "/", "--chdir", "/"]
    return arguments


def as_other_user() -> dict[str, Any]:
    """Root gives itself up before bwrap starts, or host files of root would stay root's inside."""
    if os.geteuid() != 0:
        return {}
    return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}

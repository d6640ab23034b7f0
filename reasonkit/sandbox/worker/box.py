"""The folder that a job works in: fresh for each job, bounded, gone afterwards.

In a mount namespace a tmpfs comes and goes with each job. Elsewhere one folder is emptied between jobs, by
descriptor and never through a symlink, however deep or locked up a job left it. Results are collected only
after every process of the job is dead, through openat2, so that nothing can be swapped under the reader.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import stat
from collections.abc import Iterable, Iterator, Sequence

from reasonkit.sandbox.worker import kernel

_MAX_COLLECTED = 64
_MAX_LISTED = 20_000
_INODES = 8192


class Box:
    """`mounted` decides between a tmpfs for each job and emptying one folder."""

    def __init__(self, path: str, *, mounted: bool) -> None:
        self.path = path
        self.mounted = mounted

    def open(self, megabytes: int) -> None:
        if self.mounted:
            options = f"size={megabytes}m,nr_inodes={_INODES},mode=700"
            kernel.mount("tmpfs", self.path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
        else:
            os.chmod(self.path, 0o700)
        os.mkdir(f"{self.path}/tmp", 0o700)

    def close(self) -> None:
        if self.mounted:
            kernel.unmount(self.path)
        else:
            empty(self.path)

    def collect(self, patterns: Sequence[str], most_bytes: int) -> list[tuple[str, int]]:
        """Names below the box that match, each with a descriptor of a regular file of at most `most_bytes`."""
        found: list[tuple[str, int]] = []
        if not patterns:
            return found
        root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        for name in _names(self.path):
            if len(found) == _MAX_COLLECTED:
                break
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                continue
            try:
                descriptor = kernel.open_beneath(root, name)
            except OSError:
                continue  # a symlink, or unreadable: not a result
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_size <= most_bytes:
                found.append((name, descriptor))
            else:
                os.close(descriptor)
        os.close(root)
        return found

    def overfull(self, megabytes: int, pids: Iterable[int]) -> bool:
        """Whether the running job wrote too much, where no tmpfs limits it. What cannot be looked into counts as
        full: a folder locked, or nested so deep that no path reaches it."""
        if self.mounted:
            return False
        used, entries = _held_but_unlinked(pids), 0
        pending = [self.path]
        while pending:
            try:
                listing = list(os.scandir(pending.pop()))
                entries += len(listing)
                pending += [entry.path for entry in listing if entry.is_dir(follow_symlinks=False)]
                used += sum(entry.stat(follow_symlinks=False).st_blocks for entry in listing) * 512
            except FileNotFoundError:
                continue  # removed while we looked
            except OSError:
                return True
            if entries > _INODES or used > megabytes << 20:
                return True
        return False

    def remove(self) -> None:
        """When the worker ends. A tmpfs has gone with its last mount."""
        if not self.mounted:
            self.close()
            os.rmdir(self.path)


def make(parent: str) -> Box:
    """A folder of this worker alone, emptied between jobs."""
    path = f"{parent}/reasonkit-sandbox-{os.urandom(8).hex()}"
    os.mkdir(path, 0o700)
    return Box(path, mounted=False)


def _held_but_unlinked(pids: Iterable[int]) -> int:
    """Bytes in files that have no name any more but are open."""
    held = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                status = os.stat(f"/proc/{pid}/fd/{descriptor}")
                if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                    held += status.st_blocks * 512
    return held


def _names(top: str) -> Iterator[str]:
    """Relative names of everything but folders, links not followed, a bounded number of them."""
    pending, seen = [""], 0
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(f"{top}/{folder}"))
        except OSError:
            continue
        for entry in entries:
            seen += 1
            if seen > _MAX_LISTED:
                return
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(name)
            else:
                yield name


def empty(path: str) -> None:
    """Removes everything in a folder that a hostile program filled, in constant stack and without following links.

    A subfolder is emptied by moving what it holds up to the top, so no path ever gets long.
    """
    top = _open_folder(path, None)
    while entries := os.listdir(top):
        for name in entries:
            if not _is_folder(name, top):
                os.unlink(name, dir_fd=top)
                continue
            folder = _open_folder(name, top)
            for inner in os.listdir(folder):
                if _is_folder(inner, folder):
                    os.close(
                        _open_folder(inner, folder)
                    )  # moving a folder rewrites its `..`: it must be ours to write
                    os.rename(inner, f"moved-{os.urandom(12).hex()}", src_dir_fd=folder, dst_dir_fd=top)
                else:
                    os.unlink(inner, dir_fd=folder)
            os.close(folder)
            os.rmdir(name, dir_fd=top)
    os.close(top)


def _is_folder(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _open_folder(name: str, parent: int | None) -> int:
    """Also one that its owner locked. Nothing of the job runs any more, so the name still means the same folder."""
    os.chmod(name, 0o700, dir_fd=parent)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)

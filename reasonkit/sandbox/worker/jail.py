"""The worker walls itself in, once, before any job: a root of its own with little in it, and nobody else in sight.

With namespaces (`enter`): user, mount, PID, network, IPC and UTS; the worker becomes PID 1 of a world that holds
the read-only system folders, a decoy /etc, a fresh /proc, four device nodes and an empty folder for jobs. Without
(`settle`): only the user changes, when there is a root to give up; Landlock and seccomp then do what they can.

When started by root, the tree is built as root, because an interpreter may live below a folder that others
cannot search (`/root`), and only then is the user given up and the user namespace made.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from reasonkit.sandbox.worker import kernel

BOX = "/box/w"
SANDBOX_USER = 1000  # how the worker's user is called inside

_SYSTEM_FOLDERS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC_BOUND = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d")
_ETC_DECOYS = {
    "passwd": "root:x:0:0:root:/:/bin/sh\nsandbox:x:1000:1000:sandbox:/box/w:/bin/sh\n",
    "group": "root:x:0:\nsandbox:x:1000:\n",
    "hosts": "127.0.0.1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_DEVICES = ("null", "zero", "full", "random", "urandom")
_LINKS = {
    "tmp": "box/w/tmp",
    "dev/shm": "/box/w/tmp",
    "dev/fd": "/proc/self/fd",
    "dev/stdin": "/proc/self/fd/0",
    "dev/stdout": "/proc/self/fd/1",
    "dev/stderr": "/proc/self/fd/2",
}
_REMAINING_NAMESPACES = (
    kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
)  # fmt: skip


_NOATIME, _NODIRATIME, _ST_RELATIME, _MS_RELATIME = 1 << 10, 1 << 11, 1 << 12, 1 << 21


def unprivileged_user() -> int | None:
    """The user that a worker of root becomes: one for each worker, so that limits on a user's processes count
    only its own. None when this process is not root, or is the only user of its namespace."""
    if os.geteuid() != 0:
        return None
    mapped = []
    with open("/proc/self/uid_map") as lines:
        for line in lines:
            first, _, count = (int(field) for field in line.split())
            mapped.append(range(first, first + count))
    for user in (61184 + os.getpid() % 4000, 65534):  # the range that systemd also keeps for passing users
        if any(user in users for users in mapped):
            return user
    return None


def give_up_root(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def settle() -> None:
    user = unprivileged_user()
    if user is not None:
        give_up_root(user)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    _renounce(0)


def enter(visible: Sequence[str]) -> None:
    """Returns in PID 1 of the new world; the process that called stays outside and ends with it. `visible` are the
    folders beyond the system's that jobs may read."""
    user = unprivileged_user()
    if user is not None:
        kernel.unshare(kernel.CLONE_NEWNS)
        _build_root(visible)
        give_up_root(user)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # or /proc/self would belong to root and could not be written
        _unshare_as("/old/proc")
    else:
        _unshare_as("/proc")
        _build_root(visible)
    _become_init()
    kernel.mount("/new", "/new", None, kernel.MS_BIND | kernel.MS_REC)
    _mount_proc()
    os.chdir("/new")
    kernel.pivot_root(".", ".")
    kernel.unmount(".")
    os.chdir("/")
    _renounce((1 << kernel.CAP_SYS_ADMIN) | (1 << kernel.CAP_SYS_PTRACE))


def _renounce(kept: int) -> None:
    """Nothing of this process or its children gains a privilege any more, and no neighbour reads its memory."""
    if kept:
        kernel.drop_bounding_set()
    kernel.set_capabilities(kept)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


def _unshare_as(proc: str) -> None:
    """The one user that exists inside is whoever calls this; maps are written through the /proc at `proc`."""
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(_REMAINING_NAMESPACES)
    _write(f"{proc}/self/setgroups", "deny")
    _write(f"{proc}/self/uid_map", f"{SANDBOX_USER} {user} 1")
    _write(f"{proc}/self/gid_map", f"{SANDBOX_USER} {group} 1")


def _write(path: str, content: str) -> None:
    with open(path, "w") as file:
        file.write(content)


def _become_init() -> None:
    child = os.fork()
    if child == 0:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
        return
    os.closerange(3, 1 << 16)  # the control socket must close when PID 1 dies
    _, status = os.waitpid(child, 0)
    os._exit(1 if status else 0)


def _build_root(visible: Sequence[str]) -> None:
    """Leaves the new root at /new and the host's at /old, on a tmpfs that is now /."""
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755,size=1m")
    os.mkdir("/tmp/new")
    os.mkdir("/tmp/old")
    kernel.pivot_root("/tmp", "/tmp/old")
    os.chdir("/")
    kernel.mount("tmpfs", "/new", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755,size=4m")
    for name in _SYSTEM_FOLDERS:
        if os.path.islink(f"/old/{name}"):
            os.symlink(os.readlink(f"/old/{name}"), f"/new/{name}")
        elif os.path.isdir(f"/old/{name}"):
            _bind_readonly(f"/{name}")
    for folder in visible:
        if not os.path.lexists(f"/new{folder}"):
            _bind_readonly(folder)
    for name in ("etc", "dev", "proc", "box"):
        os.makedirs(f"/new/{name}", exist_ok=True)
    _furnish_etc()
    for name in _DEVICES:
        _touch(f"/new/dev/{name}")
        kernel.mount(f"/old/dev/{name}", f"/new/dev/{name}", None, kernel.MS_BIND)
    for name, target in _LINKS.items():
        if not os.path.lexists(f"/new/{name}"):  # an interpreter below /tmp keeps its read-only place there
            os.symlink(target, f"/new/{name}")
    os.mkdir(f"/new{BOX}")
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("none", "/new", None, flags)


def _furnish_etc() -> None:
    for name, content in _ETC_DECOYS.items():
        _write(f"/new/etc/{name}", content)
    java = [
        name for name in os.listdir("/old/etc") if name.startswith("java-")
    ]  # Debian keeps JVM settings there
    for name in (*_ETC_BOUND, *java):
        if os.path.exists(f"/old/etc/{name}") and not os.path.islink(f"/old/etc/{name}"):
            _bind_readonly(f"/etc/{name}")


def _bind_readonly(path: str) -> None:
    source, target = f"/old{path}", f"/new{path}"
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _touch(target)
    kernel.mount(source, target, None, kernel.MS_BIND | kernel.MS_REC)
    # A mount that came from a more privileged namespace keeps the flags it had: they have to be repeated.
    had = os.statvfs(target).f_flag
    kept = had & (kernel.MS_NOEXEC | _NOATIME | _NODIRATIME) | (_MS_RELATIME if had & _ST_RELATIME else 0)
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("none", target, None, flags | kept)


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644))


def _mount_proc() -> None:
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    # A container that masks parts of its own /proc allows no fresh one: an empty folder serves.
    with contextlib.suppress(PermissionError):
        kernel.mount("proc", "/new/proc", "proc", flags, "hidepid=2")

"""Twenty-three ways out of a sandbox, as programs that try them and say how far they got.

Each defines `attack(scene)` and returns the truth as the attacker sees it; `probes` compares that with what it
can see from outside. `scene` tells the attacker where the prey is: a process, a file, ports.
"""

from __future__ import annotations

from dataclasses import dataclass

from reasonkit.sandbox.jobs import Limits

_QUICK = Limits(cpu_seconds=3.0, wall_seconds=6.0)
_WITH_CHILDREN = Limits(cpu_seconds=3.0, wall_seconds=6.0, processes=True)


@dataclass(frozen=True)
class Attack:
    name: str
    code: str
    limits: Limits = _QUICK
    program: bool = False
    """Runs as a program with its own streams instead of a function."""
    twice: bool = False
    """What counts is the second of two shots: what the first left for it."""
    slow: bool = False
    """Takes a noticeable time, so it is left to `reasonkit doctor`."""


_RAW = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def syscall(number, *arguments):
    return libc.syscall(ctypes.c_long(number), *arguments)
ARM = os.uname().machine == "aarch64"
"""

FORK_BOMB = """
import os, time
def attack(scene):
    children = 0
    try:
        for _ in range(300):
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)
            children += 1
    except OSError:
        pass
    return children
"""

THREAD_BOMB = """
import threading, time
def attack(scene):
    threading.stack_size(1 << 16)
    started = 0
    try:
        for _ in range(5000):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            started += 1
    except (RuntimeError, MemoryError):
        pass
    return started
"""

MEMORY = """
def attack(scene):
    hoard = []
    for _ in range(96):
        hoard.append(bytearray(b"x") * (16 << 20))
    return len(hoard) * 16
"""

DISK = """
import os
def attack(scene):
    written = 0
    block = b"x" * (1 << 20)
    try:
        for number in range(60):
            with open(f"file{number}", "wb") as file:
                for _ in range(5):
                    file.write(block)
                    written += 1
    except OSError:
        pass
    return written
"""

WRITE_OUTSIDE = """
import os
def attack(scene):
    written = []
    folders = ("/", "/usr", "/usr/local/lib", "/etc", "/var/tmp", "/home", "/root", "/box", "/dev")
    for folder in (scene["folder"], *folders):
        try:
            with open(folder + "/stolen-by-sandbox", "w") as file:
                file.write("here")
            written.append(folder)
        except OSError:
            pass
    for path in (scene["secret_file"], "/proc/sys/kernel/hostname", "/proc/1/oom_score_adj"):
        try:
            with open(path, "r+") as file:
                file.write("changed")
            written.append(path)
        except OSError:
            pass
    return written
"""

LEAVE_FILES = """
import os
def attack(scene):
    found = []
    folders = (".", "tmp", "/tmp", "/dev/shm", "/var/tmp", "/run", "/box", scene["folder"], "/dev", "/")
    for folder in folders:
        try:
            open(folder + "/message-to-next").close()
            found.append(folder)
        except OSError:
            pass
    for folder in folders:
        try:
            open(folder + "/message-to-next", "w").close()
        except OSError:
            pass
    return found
"""

IMMUNE_LOOP = """
import signal
def attack(scene):
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
"""

PASSWD = """
def attack(scene):
    try:
        return open("/etc/passwd").read()
    except OSError as error:
        return str(error)
"""

ENVIRON = """
import os
def attack(scene):
    return dict(os.environ)
"""

PROC_ENVIRON = """
import os
def attack(scene):
    seen = []
    known = (1, 2, 3, scene["victim"], scene["driver"], os.getppid())
    for pid in (*map(str, known), *os.listdir("/proc")):
        for name in ("environ", "cmdline", "mem"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    seen.append(file.read(1 << 16).decode("latin-1"))
            except (OSError, ValueError):
                pass
    return seen
def _listdir(path, real=os.listdir):
    try:
        return real(path)
    except OSError:
        return []
os.listdir = _listdir
"""

KILL = (
    _RAW
    + """
import signal
def attack(scene):
    hit = []
    try:
        os.kill(scene["victim"], signal.SIGKILL)
        return "the victim"  # shown; without walls the rest would hit whatever else the user runs
    except OSError:
        pass
    for pid in (scene["driver"], os.getppid(), 1, -1):
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
            if pid == -1 and number == signal.SIGSTOP:
                continue
            try:
                os.kill(pid, number)
                hit.append([pid, int(number)])
            except OSError:
                pass
        for call in ((131 if ARM else 234), (138 if ARM else 129)):
            syscall(call, pid, pid, 9)
    try:
        os.killpg(os.getpgid(scene["victim"]), 9)
    except OSError:
        pass
    return hit
"""
)

PTRACE = (
    _RAW
    + """
def attack(scene):
    caught = []
    for pid in (scene["victim"], scene["driver"], os.getppid(), 1):
        for request in (16, 0x4206):
            if syscall(117 if ARM else 101, request, pid, None, None) == 0:
                caught.append(pid)
        buffer = ctypes.create_string_buffer(8)
        vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
        if syscall(270 if ARM else 310, pid, vector, 1, vector, 1, 0) > 0:
            caught.append(pid)
    return caught
"""
)

TCP = """
import socket
def attack(scene):
    reached = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            with socket.socket(socket.AF_INET, kind) as prey:
                prey.settimeout(1)
                prey.connect(("127.0.0.1", scene["port"]))
                prey.send(b"hello")
                reached.append(int(kind))
        except OSError:
            pass
    return reached
"""

ABSTRACT_SOCKET = """
import socket
def attack(scene):
    try:
        with socket.socket(socket.AF_UNIX) as prey:
            prey.settimeout(1)
            prey.connect("\\0" + scene["abstract"])
            return "connected"
    except OSError as error:
        return str(error)
"""

DAEMON = """
import os, time
def attack(scene):
    if os.fork() == 0:
        try:
            os.setsid()
        except OSError:
            pass
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
    time.sleep(0.05)
    return "left one"
"""

FLOOD = """
import os
while True:
    os.write(1, b"x" * 65536)
    os.write(2, b"y" * 65536)
"""

NESTED_NAMESPACE = (
    _RAW
    + """
def attack(scene):
    made = []
    for flags in (0x10000000, 0x00020000, 0x20000000, 0x40000000, 0x10020000):
        if libc.unshare(flags) == 0:
            made.append(flags)
        if flags != 0x20000000:
            child = syscall(220 if ARM else 56, ctypes.c_long(flags | 17), None, None, None, None)
            if child == 0:
                os._exit(0)
            if child > 0:
                made.append(-flags)
    return made
"""
)

IO_URING = (
    _RAW
    + """
def attack(scene):
    parameters = ctypes.create_string_buffer(120)
    return syscall(425, 8, parameters)
"""
)

SETUID_EXEC = """
import os, subprocess, time
def attack(scene):
    with open("/proc/self/status") as file:
        status = file.read()
    gained = "NoNewPrivs:\\t1" not in status
    for program in ("/usr/bin/su", "/bin/su", "/usr/bin/passwd", "/usr/bin/sudo"):
        try:
            quiet = subprocess.DEVNULL
            child = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=quiet, stderr=quiet)
        except OSError:
            continue
        time.sleep(0.05)
        try:
            with open(f"/proc/{child.pid}/status") as file:
                users = [line.split()[1:] for line in file if line.startswith("Uid:")][0]
            gained = gained or len(set(users)) > 1
        except (OSError, IndexError):
            pass
        child.kill()
        child.wait()
    return gained
"""

INHERITED = """
import os
def attack(scene):
    seen = []
    for descriptor in range(1024):
        try:
            os.lseek(descriptor, 0, 0)
            seen.append(os.read(descriptor, 4096).decode("latin-1"))
        except OSError:
            pass
    return seen
"""

STOP_SELF = """
import os, signal
def attack(scene):
    os.kill(os.getpid(), signal.SIGSTOP)
    return "went on"
"""

RAISE_LIMITS = """
import os, resource
def attack(scene):
    raised = []
    for name in ("CPU", "AS", "FSIZE", "NPROC", "NOFILE", "CORE"):
        which = getattr(resource, "RLIMIT_" + name)
        before = resource.getrlimit(which)
        try:
            resource.setrlimit(which, (before[1], resource.RLIM_INFINITY))
        except (OSError, ValueError):
            pass
        if resource.getrlimit(which)[1] == resource.RLIM_INFINITY:
            raised.append(name)
    for pid in (scene["victim"], os.getppid(), 1):
        try:
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
            raised.append(pid)
        except (OSError, ValueError):
            pass
    return raised
"""

SYMLINK_FETCH = """
import os, sys
secret = sys.stdin.read()
for number, target in enumerate((secret, "/etc/passwd", "/proc/1/environ", "/proc/self/environ", "/dev/zero")):
    os.symlink(target, f"link{number}.txt")
os.symlink(os.path.dirname(secret), "folder")
os.mkfifo("pipe.txt")
open("honest.txt", "w").write("honest")
"""

ATTACKS = (
    Attack("fork bomb", FORK_BOMB),
    Attack("thread bomb", THREAD_BOMB),
    Attack("memory 1.5 GB", MEMORY, Limits(cpu_seconds=3.0, wall_seconds=6.0, memory_mb=256), slow=True),
    Attack("disk 300 MB", DISK),
    Attack("write outside", WRITE_OUTSIDE),
    Attack("files to the next job", LEAVE_FILES, twice=True),
    Attack("loop immune to signals", IMMUNE_LOOP, Limits(cpu_seconds=0.3, wall_seconds=6.0), slow=True),
    Attack("/etc/passwd", PASSWD),
    Attack("own environment", ENVIRON),
    Attack("environment of others", PROC_ENVIRON),
    Attack("kill", KILL),
    Attack("ptrace", PTRACE),
    Attack("TCP and UDP", TCP),
    Attack("abstract socket", ABSTRACT_SOCKET),
    Attack("daemon survives", DAEMON, _WITH_CHILDREN),
    Attack("output flood", FLOOD, program=True),
    Attack("nested namespace", NESTED_NAMESPACE),
    Attack("io_uring", IO_URING),
    Attack("setuid program", SETUID_EXEC, _WITH_CHILDREN, slow=True),
    Attack("inherited descriptors", INHERITED),
    Attack("stop itself", STOP_SELF, Limits(cpu_seconds=3.0, wall_seconds=0.4), slow=True),
    Attack("raise limits", RAISE_LIMITS),
    Attack("symlink as result", SYMLINK_FETCH, program=True),
)

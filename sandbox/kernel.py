"""What the kernel takes away from a worker of executor.py, and from the programs that it forks.

A worker gives all of this up once, after its imports and before its first job; its children
inherit it.  Each child then also loses the few calls that only the worker needs (`child_lock`).
All through ctypes: no library, no root, nothing but a plain Linux account or a default container.

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

Most of it is stopped twice: without `landlock`, `limits` (but for memory) or `uid` alone nothing
leaks.  Without `seccomp`, or `privileges` and so both, leak file metadata (and changing that of
one's own files), executable memory, user namespaces, System V memory, keyrings, and signals, limits
and scheduling of processes of the same user id, the worker among them; Landlock, where it is left,
still keeps signals inside and files closed.

Parent-death signals are no layer: they are always on, so that no process outlives us.
"""

import ctypes
import os
import platform
import resource
import signal
import struct

LAYERS = ("limits", "privileges", "uid", "landlock", "seccomp")

# Numbers on (x86-64, aarch64), from the kernel's syscall_64.tbl and asm-generic/unistd.h; None:
# the machine has no such call.
_MEMORY = {  # and other calls without an effect outside: what any Python computation may need
    "brk": (12, 214), "munmap": (11, 215), "mremap": (25, 216),
    "exit": (60, 93), "exit_group": (231, 94), "rt_sigreturn": (15, 139),
    "restart_syscall": (219, 128), "sched_yield": (24, 124), "getrandom": (318, 278),
    "gettimeofday": (96, 169), "time": (201, None),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "getpid": (39, 172),
    "gettid": (186, 178),
}  # fmt: skip
_MADVISE, _CLOCK = {"madvise": (28, 233)}, {"clock_gettime": (228, 113)}
_MMAP = {"mmap": (9, 222), "mprotect": (10, 226)}
_WRITE, _FUTEX = {"write": (1, 64)}, {"futex": (202, 98)}
_IOCTL, _CLONE = {"ioctl": (16, 29)}, {"clone": (56, 220)}
_PRCTL, _PRLIMIT = {"prctl": (157, 167)}, {"prlimit64": (302, 261)}
_WORKER = {  # what only the worker needs, and a child gives up
    "read": (0, 63), "close": (3, 57), "close_range": (436, 436), "poll": (7, None),
    "ppoll": (271, 73), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "pipe2": (293, 59), "dup2": (33, None), "dup3": (292, 24), "fork": (57, None),
    "wait4": (61, 260), "splice": (275, 76), "set_robust_list": (273, 99), "getppid": (110, 173),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "seccomp": (317, 277),
}  # fmt: skip
_ATTACKS = {  # no honest program makes these: end it at once
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40),
    "umount2": (166, 39), "pivot_root": (155, 41), "open_by_handle_at": (304, 265),
    "pidfd_getfd": (438, 438), "kcmp": (312, 272), "init_module": (175, 105),
    "finit_module": (313, 273), "process_madvise": (440, 440), "reboot": (169, 142),
}  # fmt: skip
_CLONE3 = {"clone3": (435, 435)}

_ARCHES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = _ERRNO | 1, _ERRNO | 38
_LD, _AND, _JEQ, _JGE, _JGT, _RET = 0x20, 0x54, 0x15, 0x35, 0x25, 0x06
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data; little-endian: low half first

_FIONREAD = 0x541B
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_CHILD_FLAGS = 0x01200000 | signal.SIGCHLD  # CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID: fork's
MAX_FDS = 32  # of a worker

libc = ctypes.PyDLL(None, use_errno=True)  # PyDLL keeps the GIL, which saves time and is safe here


class Missing(Exception):
    """A layer cannot be had here; the text says why."""


def _check(result, what):
    if result < 0:
        raise Missing(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def die_with_parent(parent):
    """Ask for SIGKILL when the parent (its pid) goes, however it goes."""
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


# ---- the seccomp filters -------------------------------------------------------------------------


def _instruction(code, k, jump_true=0, jump_false=0):
    return struct.pack("=HBBI", code, jump_true, jump_false, k)


def _for_calls(calls, action, column):
    """If the call is one of `calls`: the action (a return value, or instructions that return)."""
    if isinstance(action, int):
        action = _instruction(_RET, action)
    code = b""
    for numbers in calls.values():
        if numbers[column] is not None:
            code += _instruction(_JEQ, numbers[column], 0, len(action) // 8) + action
    return code


def _if_argument(index, allowed, mask=None, at_most=False):
    """Allow if argument `index` (masked) is one of `allowed`, or at most it; else EPERM.

    Without a mask all 64 bits count (CVE-2019-10063 came of comparing 32).
    """
    code = b""
    if mask is None:
        code += _instruction(_LD, _ARGS + 8 * index + 4) + _instruction(_JEQ, 0, 1, 0)
        code += _instruction(_RET, _EPERM)
    code += _instruction(_LD, _ARGS + 8 * index)
    if mask is not None:
        code += _instruction(_AND, mask)
    for value in allowed:
        compare = (_JGT, value, 1, 0) if at_most else (_JEQ, value, 0, 1)
        code += _instruction(*compare) + _instruction(_RET, _ALLOW)
    return code + _instruction(_RET, _EPERM)


def _worker_filter(column, arch):
    kill, allow = _instruction(_RET, _KILL), _instruction(_RET, _ALLOW)
    code = _instruction(_LD, _ARCH) + _instruction(_JEQ, arch, 1, 0) + kill
    code += _instruction(_LD, _NR) + _instruction(_JGE, 0x40000000, 0, 1) + kill  # the x32 ABI
    code += _for_calls(_MEMORY | _WORKER | _WRITE | _CLOCK, allow, column)
    # Higher advice poisons memory, if root.
    code += _for_calls(_MADVISE, _if_argument(2, (25,), 0xFFFFFFFF, at_most=True), column)
    code += _for_calls(_MMAP, _if_argument(2, (0,), mask=4), column)  # PROT_EXEC
    code += _for_calls(_FUTEX, _if_argument(1, (0, 1, 9, 10), mask=0x7F), column)  # wait, wake
    code += _for_calls(_IOCTL, _if_argument(1, (_FIONREAD,)), column)
    code += _for_calls(_CLONE, _if_argument(0, (0,), mask=~_CHILD_FLAGS & 0xFFFFFFFF), column)
    code += _for_calls(_PRCTL, _if_argument(0, (_PR_SET_PDEATHSIG, _PR_SET_SECCOMP)), column)
    code += _for_calls(_PRLIMIT, _if_argument(0, (0,)), column)  # its own limits only
    code += _for_calls(_ATTACKS, _KILL, column)
    code += _for_calls(_CLONE3, _ENOSYS, column)  # the C library falls back to clone
    return code + _instruction(_RET, _EPERM)


def _child_filter(column):
    """On top of the worker's: only what a child gives up, since loading time grows with length."""
    code = _instruction(_LD, _NR)
    code += _for_calls(_WORKER | _IOCTL | _CLONE | _PRCTL | _PRLIMIT, _EPERM, column)
    code += _for_calls(_WRITE, _if_argument(0, (3,), at_most=True), column)  # null and its result
    # Negative numbers are the CPU clocks of other processes.
    code += _for_calls(_CLOCK, _if_argument(0, (15,), 0xFFFFFFFF, at_most=True), column)
    return code + _instruction(_RET, _ALLOW)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]


def _loader(code, column):
    """The function that installs a filter for this process; prepared once, called in every child."""
    program, number = _Program(len(code) // 8, code), _WORKER["seccomp"][column]
    return lambda: _load(program, number)


def _load(program, number):
    # SPEC_ALLOW: before Linux 5.16 a filter else turns on mitigations that slow Python down.
    if libc.syscall(number, 1, 4, ctypes.byref(program)) < 0:
        result = libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0)
        _check(result, "no seccomp filter can be installed")


# ---- the layers ----------------------------------------------------------------------------------


def _limits(memory_mb):
    for what, limit in (
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_NOFILE, MAX_FDS),
    ):
        hard = resource.getrlimit(what)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (limit, limit))


def _privileges():
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def _uid():
    if os.geteuid() == 0:
        uid = 61184 + os.getpid() % 4096  # a range that no distribution gives to people or packages
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        except OSError as error:
            raise Missing(f"root cannot change its user id ({error.strerror})") from None
    _check(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")


def _landlock():
    create, restrict = 444, 446
    abi = _check(libc.syscall(create, None, 0, 1), "no Landlock")
    files = 13 if abi == 1 else 14 if abi == 2 else 15 if abi < 5 else 16
    rights = [(1 << files) - 1, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0]
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    for scopes in (rights[2], 0):  # some kernels claim ABI 6 without its scopes
        ruleset = struct.pack("=QQQ", *rights[:2], scopes)[:size]
        fd = libc.syscall(create, ruleset, len(ruleset), 0)
        if fd >= 0:
            break
    _check(fd, "Landlock")
    _check(libc.syscall(restrict, fd, 0), "Landlock")
    os.close(fd)


def _seccomp():
    if platform.machine() not in _ARCHES:
        raise Missing(f"no system call table for {platform.machine()}")
    column, arch = _ARCHES[platform.machine()]
    _loader(_worker_filter(column, arch), column)()


def confine(parent, memory_mb, without=()):
    """Give up everything a worker does not need; the layers that are missing: {name: reason}.

    `parent`: pid to die with, or 0.  `without`: layers to leave out, for tests and measurements.
    """
    missing = {name: "switched off" for name in without}
    layers = (_uid, _landlock, _seccomp)
    if "limits" not in missing:
        _limits(memory_mb)
    for name, layer in (("privileges", _privileges), *zip(LAYERS[2:], layers)):
        if name == "landlock" and parent:
            die_with_parent(parent)  # after the change of user id, which forgets it
        if name not in missing:
            try:
                layer()
            except (Missing, AttributeError) as error:  # no prctl or syscall: not Linux
                missing[name] = str(error)
    return missing


def child_lock(missing):
    """The function for a child to call once it has read its job."""
    load = None
    if "seccomp" not in missing:
        column, _ = _ARCHES[platform.machine()]
        load = _loader(_child_filter(column), column)

    def lock():
        if "limits" not in missing:
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # does not bind root
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # nothing more can be opened
        if load:
            load()

    return lock


# ---- what holds, measured ------------------------------------------------------------------------

# Run as a job like any other when an executor starts; returns what it could do.
CANARY = '''
import ctypes, os
def f():
    libc = ctypes.CDLL(None, use_errno=True)
    def fork():
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    def call(name, *arguments):
        if getattr(libc, name)(*arguments) == -1:
            raise OSError(ctypes.get_errno(), name)
    attempts = {
        "open files": lambda: os.open("/", os.O_RDONLY),
        "open sockets": lambda: call("socket", 2, 1, 0),
        "start processes": fork,
        "see files": lambda: os.stat("/"),
        "signal its worker": lambda: os.kill(os.getppid(), 0),
        "limit its worker": lambda: call("prlimit", os.getppid(), 7, None, None),
        "make memory executable": lambda: call("mprotect", ctypes.c_void_p(
            libc.valloc(4096)), 4096, 7),
    }
    done = []
    libc.valloc.restype = ctypes.c_size_t
    for name, attempt in attempts.items():
        try:
            attempt()
        except OSError:
            continue
        done.append(name)
    return done
'''
_GRAVE = {"open files", "open sockets", "start processes"}


def level_of(leaks):
    """kernel: the canary could do nothing; partial: nothing that reaches outside; else weak."""
    return "kernel" if not leaks else "weak" if _GRAVE & set(leaks) else "partial"

"""Hostile programs, as data: what each does, and the kinds of outcome it may end in. Nothing here runs or imports them.

HOSTILE, the battery; SLEEPERS, which take wall time; HUNTS, which search for what an earlier program held; PROBES, what
each layer of sandbox/kernel.py is there to stop; NEXT, what the program after a hostile one finds.
"""
import platform
import textwrap
from collections.abc import Callable

CPU, MEMORY = 0.3, 192  # seconds and MB for every program
LEAKED = "it leaked"    # what a program returns that got through where nothing outside shows it

# System calls on (x86-64, aarch64), written down again rather than taken from what is tested.
TABLE = """
access 21 -, add_key 248 217, adjtimex 159 171, alarm 37 -, bpf 321 280, brk 12 214, chdir 80 49,
chroot 161 51, clock_gettime 228 113, clock_nanosleep 230 115, clock_settime 227 112, clone 56 220,
clone3 435 435, close 3 57, connect 42 203, creat 85 -, dup 32 23, dup2 33 -, dup3 292 24,
epoll_create1 291 20, eventfd2 290 19, execve 59 221, execveat 322 281, exit 60 93,
exit_group 231 94, faccessat2 439 439, fanotify_init 300 262, fchmodat 268 53, fchownat 260 54,
fcntl 72 25, fork 57 -, fsopen 430 430, futex 202 98, getpid 39 172, getppid 110 173,
getrandom 318 278, gettid 186 178, gettimeofday 96 169, inotify_init1 294 26, ioctl 16 29,
io_uring_setup 425 425, ioprio_set 251 30, kcmp 312 272, kexec_load 246 104, keyctl 250 219,
kill 62 129, landlock_create_ruleset 444 444, linkat 265 37, madvise 28 233, memfd_create 319 279,
memfd_secret 447 447, mkdirat 258 34, mknodat 259 33, mlock 149 228, mmap 9 222, mount 165 40,
mprotect 10 226, mq_open 240 180, mremap 25 216, msgget 68 186, munmap 11 215, nanosleep 35 101,
name_to_handle_at 303 264, newfstatat 262 79, open 2 -, open_by_handle_at 304 265, openat 257 56,
openat2 437 437, pause 34 -, perf_event_open 298 241, personality 135 92, pidfd_getfd 438 438,
pidfd_open 434 434, pidfd_send_signal 424 424, pipe2 293 59, pkey_mprotect 329 288, prctl 157 167,
prlimit64 302 261, process_madvise 440 440, process_vm_readv 310 270, process_vm_writev 311 271,
ptrace 101 117, pwrite64 18 68, read 0 63, reboot 169 142, recvfrom 45 207, renameat2 316 276,
request_key 249 218, restart_syscall 219 128, rt_sigaction 13 134, rt_sigprocmask 14 135,
rt_sigqueueinfo 129 138, rt_sigreturn 15 139, sched_setaffinity 203 122, sched_setattr 314 274,
sched_setscheduler 144 119, sched_yield 24 124, seccomp 317 277, semget 64 190, sendto 44 206,
set_mempolicy 238 237, setgroups 116 159, sethostname 170 161, setitimer 38 103, setns 308 268,
setpgid 109 154, setpriority 141 140, setresuid 117 147, setrlimit 160 164, setsid 112 157,
setxattr 188 5, shmctl 31 195, shmget 29 194, signalfd4 289 74, socket 41 198, socketpair 53 199,
splice 275 76, statx 332 291, symlinkat 266 36, syslog 103 116, tgkill 234 131, time 201 -,
timer_create 222 107, timerfd_create 283 85, tkill 200 130, truncate 76 45, umask 95 166,
unlinkat 263 35, unshare 272 97, userfaultfd 323 282, utimensat 280 88, vfork 58 -,
vmsplice 278 75, wait4 61 260, write 1 64, writev 20 66
"""
COLUMN = 2 if platform.machine() == "aarch64" else 1
ROWS = [row.split() for row in TABLE.split(",")]
NUMBERS = {row[0]: int(row[COLUMN]) for row in ROWS if row[COLUMN] != "-"}

# ----------------------------------------------------------------------------------------------------------------
# The battery

HEAD = f"""
import ctypes, os, signal, struct, sys, time
LEAKED = {LEAKED!r}
NUMBERS = {NUMBERS}
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    arguments = [ctypes.c_long(a) if type(a) is int else a for a in (number, *arguments)]
    result = libc.syscall(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), "call")
    return result
def raw(name, *arguments):
    return call(NUMBERS[name], *arguments)
def bomb(count, start):
    for _ in range(count):
        if start() == 0:
            time.sleep(60)
"""
HOSTILE = {}  # name: (program, the kinds of Outcome that it may end in)


def body(text: str) -> str:
    """The program whose f does this; `w` tells it about the world (see World.knowledge)."""
    return HEAD + "def f(w):\n" + textwrap.indent(textwrap.dedent(text).strip(), "    ")


def hostile(kinds: str, programs: dict[str, str], wrap: Callable[[str], str] = body) -> None:
    for name, text in programs.items():
        assert name not in HOSTILE
        HOSTILE[name] = wrap(text), set(kinds.split())


# One system call each.  They must fail by the filter's error number, not by their arguments'.
FILE, NEW, AT = "w['file'].encode()", "(w['folder'] + '/new').encode()", -100
CALLS = {
    "open": f"{FILE}, 1", "creat": f"{NEW}, 0o666", "openat": f"{AT}, {NEW}, 0o101, 0o666",
    "openat2": f"{AT}, {FILE}, bytes(24), 24", "access": f"{FILE}, 0",
    "faccessat2": f"{AT}, {FILE}, 0, 0", "newfstatat": f"{AT}, {FILE}, bytes(144), 0",
    "statx": f"{AT}, {FILE}, 0, 0xfff, bytes(256)", "truncate": f"{FILE}, 0",
    "unlinkat": f"{AT}, {FILE}, 0", "mkdirat": f"{AT}, {NEW}, 0o777",
    "mknodat": f"{AT}, {NEW}, 0o10666, 0", "symlinkat": f"b'/', {AT}, {NEW}",
    "linkat": f"{AT}, {FILE}, {AT}, {NEW}, 0", "renameat2": f"{AT}, {FILE}, {AT}, {NEW}, 0",
    "fchmodat": f"{AT}, {FILE}, 0", "fchownat": f"{AT}, {FILE}, 1, 1, 0",
    "utimensat": f"{AT}, {FILE}, 0, 0", "setxattr": f"{FILE}, b'user.x', b'y', 1, 0",
    "name_to_handle_at": f"{AT}, {FILE}, bytes(200), bytes(8), 0", "umask": "0",
    "chdir": "w['folder'].encode()", "chroot": "w['folder'].encode()", "memfd_create": "b'x', 0",
    "memfd_secret": "0", "inotify_init1": "0", "fanotify_init": "0, 0", "timerfd_create": "1, 0",
    "eventfd2": "0, 0", "signalfd4": "-1, bytes(8), 8, 0", "epoll_create1": "0", "dup": "3",
    "pipe2": "bytes(8), 0", "dup2": "3, 1", "dup3": "3, 1, 0", "fcntl": "3, 1031, 1 << 20",
    "close": "3", "ioctl": "3, 0x541B, bytes(8)", "read": "0, bytes(8), 8", "writev": "3, 0, 0",
    "pwrite64": "3, b'x', 1, 0", "splice": "0, 0, 3, 0, 8, 0", "vmsplice": "3, 0, 0, 0",
    "socketpair": "1, 1, 0, bytes(8)", "connect": "3, bytes(16), 16",
    "sendto": "3, b'x', 1, 0, 0, 0", "recvfrom": "3, bytes(8), 8, 0, 0, 0", "fork": "",
    "vfork": "", "clone": "17, 0, 0, 0, 0", "setsid": "", "setpgid": "0, 0", "wait4": "-1, 0, 0, 0",
    "execve": "b'/bin/true', 0, 0", "execveat": f"{AT}, b'/bin/true', 0, 0, 0", "getppid": "",
    "pause": "", "alarm": "1", "tgkill": "w['victim'], w['victim'], 10", "tkill": "w['victim'], 10",
    "kill": "w['victim'], 10", "pidfd_open": "w['worker'], 0", "pidfd_send_signal": "3, 10, 0, 0",
    "rt_sigqueueinfo": "w['victim'], 10, struct.pack('iii', 10, 0, -1) + bytes(116)",
    "setpriority": "0, w['victim'], 10", "ioprio_set": "1, w['victim'], 3 << 13",
    "sched_setaffinity": "w['victim'], 8, b'\\1' + bytes(7)",
    "sched_setscheduler": "w['victim'], 5, bytes(4)", "sched_setattr": "w['victim'], bytes(48), 0",
    "setrlimit": "7, struct.pack('QQ', 64, 64)", "prlimit64": "0, 9, struct.pack('qq', -1, -1), 0",
    "mlock": "id(w) & ~4095, 4096", "set_mempolicy": "0, 0, 0", "personality": "0x400000",
    "prctl": "1, 0, 0, 0, 0", "seccomp": "2, 0, 0", "landlock_create_ruleset": "0, 0, 1",
    "rt_sigaction": "14, 0, 0, 8", "rt_sigprocmask": "0, bytes(8), 0, 8", "syslog": "3, 0, 0",
    "setitimer": "2, bytes(32), 0", "timer_create": "1, 0, bytes(8)", "setresuid": "0, 0, 0",
    "shmget": "w['key'], 4096, 0o1666", "semget": "w['key'], 1, 0o1666", "setgroups": "0, 0",
    "msgget": "w['key'], 0o1666", "mq_open": "b'new', 0o102, 0o666, 0", "fsopen": "b'tmpfs', 0",
    "pkey_mprotect": "id(w) & ~4095, 4096, 7, -1",
    # These with arguments that change nothing even where they get through.
    "sethostname": "0, -1", "clock_settime": "0, 0", "adjtimex": "0", "kexec_load": "0, 0, 0, -1",
}
ATTACKS = {
    "ptrace": "16, w['worker'], 0, 0", "process_vm_readv": "w['worker'], 0, 0, 0, 0, 0",
    "process_vm_writev": "w['worker'], 0, 0, 0, 0, 0", "bpf": "0, 0, 0", "userfaultfd": "0",
    "perf_event_open": "0, 0, -1, -1, 0", "io_uring_setup": "1, bytes(120)", "setns": "3, 0",
    "keyctl": "0, -3, 0", "add_key": "b'user', b'x', b'y', 1, -3", "unshare": "0x10000000",
    "request_key": "b'user', b'x', 0, 0", "mount": "b'x', w['folder'].encode(), b'tmpfs', 0, 0",
    "open_by_handle_at": "3, 0, 0", "pidfd_getfd": "3, 0, 0", "process_madvise": "3, 0, 0, 0, 0",
    "kcmp": "w['worker'], w['worker'], 0, 0, 0", "reboot": "0, 0, 0, 0",
}


def calls(table: dict[str, str]) -> dict[str, str]:
    return {f"call {n}": f"raw({n!r}, {a})" for n, a in table.items() if n in NUMBERS}


hostile("error", calls(CALLS))
hostile("violation", calls(ATTACKS))
hostile("error", {
    f"socket {name}": f"raw('socket', {arguments}, 0)"
    for name, arguments in {
        "unix": "1, 1", "inet": "2, 1", "raw": "2, 3", "inet6": "10, 1", "netlink": "16, 3",
        "packet": "17, 3", "alg": "38, 5", "vsock": "40, 1",
    }.items()
})
hostile("error", {
    "clone3": "raw('clone3', bytes(64) + struct.pack('Q', 17), 88)",
    "write beyond the result": "raw('write', 1 << 32 | 3, b'x', 1)",
    "executable memory": "raw('mmap', 0, 4096, 7, 0x22, -1, 0)",
    "executable heap": "raw('mprotect', id(w) & ~4095, 4096, 7)",
    "futex in other processes' robust lists": "raw('futex', bytes(4), 6, 0, 0)",
    "C library's socket": "assert libc.socket(2, 1, 0) >= 0",
})
if platform.machine() == "x86_64":
    hostile("violation crash", {
        "x32 open": "call(0x40000002, w['file'].encode(), 1)",
        "x32 write": "call(0x40000001, 3, b'x', 1)",
        "32-bit entry": """
            # mov eax, 20 (getpid); int 0x80: has no executable memory to run from
            page = raw("mmap", 0, 4096, 3, 0x22, -1, 0)
            ctypes.memmove(page, bytes.fromhex("b814000000cd80c3"), 8)
            return ctypes.CFUNCTYPE(ctypes.c_int)(page)()
        """,
    })

# Files, sockets, processes, signals, limits, through Python's own ways.
hostile("error", {
    "write a file": "open(w['file'], 'w').write('x')",
    "append": "open(w['file'], 'a').write('x')",
    "new file": "open(w['folder'] + '/new', 'x')",
    "read a secret file": "return open(w['file']).read()",
    "read passwords": "return open('/etc/passwd').read()",
    "own environment": "return open('/proc/self/environ', 'rb').read()",
    "trainer's environment": "return open(f'/proc/{w[\"trainer\"]}/environ', 'rb').read()",
    "worker's memory": "open(f'/proc/{w[\"worker\"]}/mem', 'r+b')",
    "own memory": "open('/proc/self/mem', 'r+b')",
    "own source": "return open(sys.modules['__main__'].__file__).read()",
    "library": "return [os.listdir(p) for p in sys.path]",
    "list": "return os.listdir(w['folder'])",
    "stat": "return os.stat(w['file'])[:]",
    "folder": "os.mkdir(w['folder'] + '/new')",
    "links": "os.symlink('/', w['folder'] + '/new'); os.link(w['file'], w['folder'] + '/new2')",
    "remove": "os.unlink(w['file'])",
    "rename": "os.rename(w['file'], w['file'] + '2')",
    "mode": "os.chmod(w['file'], 0)",
    "owner": "os.chown(w['file'], os.getuid(), -1)",
    "times": "os.utime(w['file'])",
    "cut": "os.truncate(w['file'], 0)",
    "pipe in a folder": "os.mkfifo(w['folder'] + '/new')",
    "open a folder and remove in it": "os.unlink('file', dir_fd=os.open(w['folder'], 0))",
    "working folder": "os.chdir(w['folder']); open('new', 'x')",
    "temporary file": "import tempfile; return tempfile.mkstemp()[1]",
    "out of memory score": "open(f'/proc/{w[\"victim\"]}/oom_score_adj', 'w').write('999')",
    "shared memory": "import multiprocessing.shared_memory as m; m.SharedMemory('x', True, 9)",
    "tcp": "import _socket; _socket.socket(2, 1).connect(('127.0.0.1', w['tcp']))",
    "udp": "import _socket; _socket.socket(2, 2).sendto(b'x', ('127.0.0.1', w['udp']))",
    "unix path": "import _socket; _socket.socket(1, 1).connect(w['folder'] + '/socket')",
    "unix abstract": "import _socket; _socket.socket(1, 1).connect('\\0' + w['abstract'])",
    "import socket": "import socket; socket.create_connection(('127.0.0.1', w['tcp']))",
    "import urllib": "import urllib.request as u; u.urlopen(f'http://127.0.0.1:{w[\"tcp\"]}')",
    "import subprocess": "import subprocess; subprocess.run(['touch', w['folder'] + '/new'])",
    "import multiprocessing": "import multiprocessing as m; m.Process(target=time.sleep).start()",
    "import asyncio": "import asyncio; asyncio.run(asyncio.sleep(0))",
    "import numpy": "import numpy",
    "fork": "os.fork()",
    "fork bomb": "bomb(50, os.fork)",
    "fork bomb by clone": "bomb(50, lambda: raw('clone', 17, 0, 0, 0, 0))",
    "fork that leaves the session": "bomb(1, lambda: os.fork() or os.setsid() * 0)",
    "sibling": "raw('clone', 0x8000 | 17, 0, 0, 0, 0) or time.sleep(60)",
    "spawn": "os.posix_spawn('/bin/touch', ['touch', w['folder'] + '/new'], {})",
    "exec": "os.execv('/bin/touch', ['touch', w['folder'] + '/new'])",
    "popen": "os.popen('touch ' + w['folder'] + '/new').read()",
    "thread": "import _thread; _thread.start_new_thread(time.sleep, (60,))",
    "thread by ctypes": """
        if libc.pthread_create(bytes(64), None, libc.pause, None):
            raise OSError
        time.sleep(60)
    """,
    "terminal": "os.openpty()",
    "kill the worker": "os.kill(w['worker'], 9)",
    "stop the worker": "os.kill(w['worker'], 19)",
    "kill the trainer": "os.kill(w['trainer'], 10)",
    "kill the victim": "os.kill(w['victim'], 9)",
    "C library's fork": "pid = libc.fork(); assert pid >= 0; time.sleep(pid * 60)",
    "signal everything": "os.kill(-1, signal.SIGWINCH)",
    "signal the group": "os.killpg(0, signal.SIGWINCH)",
    "signal by pidfd": "signal.pidfd_send_signal(os.pidfd_open(w['victim']), 10)",
    "nice": "os.setpriority(os.PRIO_PROCESS, w['victim'], 19)",
    "own nice": "os.nice(5)",
    "affinity": "os.sched_setaffinity(w['victim'], range(1024))",
    "limit the worker": "import resource as r; r.prlimit(w['worker'], r.RLIMIT_CPU, (1, 1))",
    "limit the trainer": "import resource as r; r.prlimit(w['trainer'], r.RLIMIT_CORE, (0, 0))",
    "limit the victim": "import resource as r; r.prlimit(w['victim'], r.RLIMIT_CPU, (1, 1))",
    "raise own limits": "import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))",
    "become root": "os.setuid(0)",
    "close the result": "os.close(3)",
    "replace the result": "os.dup2(0, 3)",
    "trainer's clock": "return LEAKED, time.clock_gettime(~w['trainer'] << 3 | 2)",
})

# What ends well, or ends only the program itself.
hostile("ok", {
    "shell": "return os.system('touch ' + w['folder'] + '/new')",
    "look for files": """
        found = [p for p in ("/", "/etc/passwd", w["folder"], w["file"]) if os.path.exists(p)]
        return [LEAKED, found] if found else None
    """,
    "read every descriptor": """
        for fd in range(64):
            try:
                return LEAKED, fd, os.read(fd, 1 << 16)
            except OSError:
                pass
    """,
    "close every descriptor": "os.closerange(0, 64); return 1",
    "close every descriptor for good": """
        for fd in range(64):
            try:
                os.close(fd)
            except OSError:
                continue
            return LEAKED
    """,
    "200 MB of output": "for _ in range(2000): print('x' * 10**5, file=sys.stderr)",
    "write to the standard descriptors": "return [os.write(fd, b'x' * 10**6) for fd in range(3)]",
    "survivors": """
        import atexit, gc
        class Late:
            def __del__(self):
                os.system("touch " + w["folder"] + "/new")
        w["late"] = Late()
        atexit.register(open, w["folder"] + "/new", "x")
        gc.callbacks.append(lambda *a: open(w["folder"] + "/new", "x"))
    """,
    "hooks": """
        def hook(*arguments):
            return hook
        sys.settrace(hook); sys.setprofile(hook); sys.addaudithook(hook)
        sys.excepthook = sys.unraisablehook = sys.breakpointhook = sys.displayhook = hook
        sys.meta_path.clear(); sys.path_hooks.clear(); sys.path[:] = [w["folder"]]
    """,
    "settings": """
        import decimal, gc, json, math, random, re, warnings
        decimal.getcontext().prec = 2
        decimal.DefaultContext.prec = 3
        sys.setrecursionlimit(10**6)
        sys.set_int_max_str_digits(0)
        sys.setswitchinterval(100)
        gc.disable(); gc.set_threshold(1); gc.unfreeze(); random.seed(1)
        warnings.simplefilter("error")
        re.purge(); math.pi = 3; os.environ["POISON"] = "1"; os.putenv("POISON", "1")
        sys.stdout = sys.stderr = sys.stdin = None
    """,
    "poisoned functions": """
        import json, re, statistics, textwrap
        for module in (json, re, statistics, textwrap):
            for function in vars(module).values():
                if hasattr(function, "__code__") and function is not json.dumps:
                    function.__code__ = (lambda *a, **k: 99).__code__
                    function.__defaults__, function.__kwdefaults__ = (1,), None
    """,
    "poisoned small numbers": """
        import collections
        (ctypes.c_char * 4).from_address(id(250) + 24)[0] = b"\\x07"  # 250 is now 7, in CPython
        ctypes.py_object.from_address(id(collections.Counter.__mro__) + 24).value = int
        return 0
    """,
})
hostile("ok crash error unserializable memory timeout", {
    "poisoned builtins": """
        import builtins
        builtins.len = builtins.sorted = builtins.isinstance = lambda *a: 99
        builtins.type = builtins.map = builtins.print = builtins.open = builtins.range = None
    """,
    "emptied modules": """
        for name, module in list(sys.modules.items()):
            if name not in ("builtins", "sys", "__main__", "json", "json.encoder"):
                vars(module).clear()
        sys.modules.clear()
    """,
    "emptied builtins": "import builtins; vars(builtins).clear()",
    "poisoned harness": """
        import __main__
        for name in list(vars(__main__)):
            if not name.startswith("__"):
                setattr(__main__, name, lambda *a, **k: b"E" * 13)
    """,
    "poisoned json": """
        import json
        json.dumps = json.loads = lambda *a, **k: '"forged"'
        json.encoder.JSONEncoder.encode = json.JSONEncoder.default = lambda *a, **k: "forged"
    """,
    "callers": """
        import __main__
        frame = sys._getframe()
        while frame := frame.f_back:  # change what its callers hold, where that can be done
            for value in frame.f_locals.values():
                if type(value) in (list, dict, bytearray, set):
                    value.clear()
    """,
    "emptied heap": """
        import gc
        for thing in gc.get_objects():
            if type(thing) in (dict, list, set) and thing is not w:
                thing.clear()
    """,
    "owners of the harness": """
        import gc, __main__
        for owner in gc.get_referrers(__main__.write_all, __main__.supervise):
            if type(owner) is dict:
                owner["write_all"] = owner["supervise"] = owner["run_job"] = exit
    """,
    "own text made writable": """
        address = ctypes.cast(libc.getpid, ctypes.c_void_p).value & ~4095
        raw("mprotect", address, 4096, 3)
        ctypes.memset(address, 0xCC, 4096)
    """,
    "type's slots overwritten": "ctypes.memset(id(dict) + 48, 0x41, 64); return dict()",
    "memory of the harness overwritten": "ctypes.memset(id(sys.modules) & ~0xFFFFF, 0, 1 << 20)",
    "nested comprehensions": "return eval('[0' + ' for x in [[0]]' * 30 + ']')",
    "parentheses": "return eval('(' * 10**5 + ')' * 10**5)",
    "minus signs": "return eval('-' * 200_000 + '1')",
    "deep recursion": "f(w)",
    "deep recursion without a limit": "sys.setrecursionlimit(10**9); f(w)",
    "deep repr": "x = []\nfor _ in range(10**6): x = [x]\nreturn repr(x)",
    "unraisable": "sys.unraisablehook = lambda u: os._exit(0)\nclass D:\n __del__ = f\ndel w\nD()",
    "module is the function": "sys.modules['__main__'] = sys.modules[__name__] = f; raise f",
})
hostile("crash", {
    "_exit": "os._exit(0)",
    "C exit": "libc.exit(0)",
    "abort": "os.abort()",
    "segmentation fault": "ctypes.string_at(0)",
    "bad exit under a handler": "signal.signal = None; import atexit; ctypes.memset(1, 0, 1)",
})
hostile("ok crash error memory", {
    "faulthandler": "import faulthandler; faulthandler._sigsegv()",
    "stack overflow in C": "libc.qsort(bytes(80), 10, 8, ctypes.CFUNCTYPE(int)(lambda: f(w)))",
    # Returns whatever lies behind its constants.
    "bad code": "exec((lambda: 0).__code__.replace(co_code=bytes([151, 0, 100, 255, 83, 0])))",
    "forged return address": "ctypes.memset(id(sys._getframe()) + 16, 0x41, 64)",
})
hostile("error", {
    "exit": "sys.exit(0)",
    "interrupt": "raise KeyboardInterrupt",
    "bare exception group": "raise BaseExceptionGroup('x', [SystemExit(0)])",
    "nul": "exec('\\0')",
    "surrogates": "exec('\\ud800 = 1')",
    "no memory for a big string": "raise RuntimeError('x' * 10**8)",
    "undecodable": "raise ValueError('\\ud800' * 1000)",
})
hostile("unserializable", {
    "yes to everything": """
        class Yes:
            __eq__ = __ne__ = __lt__ = __le__ = __contains__ = __bool__ = lambda *a: True
            __hash__ = __len__ = __int__ = __index__ = lambda *a: 1
            __repr__ = __str__ = lambda *a: "1"
            __class__ = property(lambda s: int)
            __reduce__ = __reduce_ex__ = lambda *a: (os.system, ("touch " + w["folder"] + "/new",))
            __iter__ = lambda s: iter([1])
        return [Yes()]
    """,
    "subclasses": """
        class I(int):
            __eq__ = lambda s, o: True
            __hash__ = lambda s: 1
        return {I(1): type("S", (str,), {"__len__": lambda s: -1})("x")}
    """,
    "type that lies": "return type('M', (type,), {'__eq__': lambda *a: True})('int', (), {})()",
    "a coroutine": "import types; return types.coroutine(f)",
    "a generator": "return (open(w['file']) for _ in '1')",
    "a module": "return os",
})
hostile("too_big", {
    "100 MB": "return 'x' * 10**8",
    "deep": "x = []\nfor _ in range(10**5): x = [x]\nreturn x",
    "cycle": "x = {}\nx[1] = [x]\nreturn x",
    "long integer": "return 1 << 10**6",
    "many small": "return [[]] * 10**6",
})
hostile("memory", {
    "one big block": "return len(bytearray(1 << 40))",
    "kept blocks": "x = []\nwhile True: x.append(bytes(10**7))",
    "big power": "return 'x' * (1 << 60)",
})
hostile("timeout", {
    "loop": "while True: pass",
    "swallow everything": "\n".join([
        "while True:", " try:", "  while True: pass", " except BaseException: pass"]),
    "swallow no memory": """
        x = []
        while True:
            try:
                x.append(bytearray(10**7))
            except MemoryError:
                pass
    """,
    "disarm and loop": """
        import faulthandler
        for step in (
            lambda: signal.setitimer(signal.ITIMER_PROF, 0), lambda: signal.alarm(0),
            lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()),
            lambda: [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 14, 15, 24, 27)],
            lambda: libc.prctl(1, 0), lambda: libc.prctl(4, 1), lambda: os.nice(19),
            lambda: faulthandler.cancel_dump_traceback_later(), lambda: os.setsid(),
        ):
            try:
                step()
            except Exception:
                pass
        while True: pass
    """,
    "long in C": "return 10**10**8 % 7",
    "integer to text": "sys.set_int_max_str_digits(0); return str(1 << 10**8)",
    "regular expression": "import re; re.match('(a+)+$', 'a' * 40 + 'b')",
    "looping hash": "class H:\n def __hash__(s):\n  while 1: pass\nreturn {H(): 1}",
    "looping end": "class D:\n def __del__(s):\n  while 1: pass\nw['d'] = D(); del w['d']",
    "buys time with a byte": "os.write(3, b'\\0')\nwhile True: pass",
    "yields for ever": "while True: os.sched_yield()",
})

# Forgery: a program can write its own record, and nothing else.
FORGED = """
def record(text):
    return struct.pack("!I", len(text)) + text
"""
hostile("ok", {
    "own record forged": "os.write(3, record(b'[0,\"ok\",\"forged\"]')); os._exit(0)",
    # The first is its own; what follows is never read.
    "flood of good records": "while True: os.write(3, record(b'[0,\"ok\",1]') * 1000)",
}, lambda text: FORGED + body(text))
hostile("crash", {
    "another run's record": "os.write(3, record(b'[1,\"ok\",1]')); return 1",
    "a kind of ours": "os.write(3, record(b'[0,\"infra\",1]')); return 1",
    "end of a child": "os.write(3, struct.pack('!cId', b'E', 0, 0.0)); return 1",
    "layers": "os.write(3, struct.pack('!cId', b'H', 2, 0.0) + b'{}'); return 1",
    "data": "os.write(3, struct.pack('!cId', b'D', 1 << 31, -1.0) * 99); return 1",
    "not UTF-8": "os.write(3, record(b'\\xff' * 9)); return 1",
    "deep record": "os.write(3, record(b'[0,\"ok\",' + b'[' * 50_000)); return 1",
    "long number": "os.write(3, record(b'[0,\"ok\",' + b'9' * 60_000 + b']')); return 1",
    "colliding set": """
        values = ",".join(str(i * (2**61 - 1)) for i in range(2700)).encode()
        os.write(3, record(b'[0,"ok",["s",' + values + b']]x'))
    """,
    "forged frames on every descriptor": """
        for fd in range(64):
            try:
                os.write(fd, struct.pack("!cId", b"E", 0, 0.0) * 9 + record(b'[0,"ok",1]'))
            except OSError:
                pass
        return 1
    """,
}, lambda text: FORGED + body(text))
hostile("crash timeout", {
    "flood": "while True: os.write(3, b'x' * 65536)",
    "flood of empty records": "while True: os.write(3, bytes(65536))",
}, lambda text: FORGED + body(text))

# Programs that search for what an earlier program held.
SEEK = """
import re
def seek(text):
    if type(text) is str:
        text = text.encode(errors="replace")
    return sorted(set(re.findall(b"needle" + rb"-\\w+-[0-9a-f]{32}", text)))
"""
HUNTS = {
    "frames": """
        frame, found = sys._getframe(), []
        while frame:
            found += seek(repr((frame.f_locals, frame.f_code.co_consts)))
            frame = frame.f_back
        return sorted(set(found))
    """,
    "heap of Python": """
        import gc
        found = []
        for thing in gc.get_objects():
            for part in gc.get_referents(thing):
                if type(part) in (str, bytes, bytearray):
                    found += seek(part)
        return sorted(set(found))
    """,
    "all memory": """
        import gc
        def mapped(page):  # a futex that waits for no time tells whether its address is readable
            libc.syscall(NUMBERS["futex"], ctypes.c_void_p(page), 128, 0x5afe5afe, bytes(16))
            return ctypes.get_errno() != 14
        libc.sbrk.restype = ctypes.c_void_p
        pages = {id(thing) & ~4095 for thing in gc.get_objects()}
        pages |= {libc.sbrk(0) - 4096, ctypes.c_void_p.in_dll(libc, "environ").value & ~4095}
        pages |= {ctypes.cast(function, ctypes.c_void_p).value & ~4095
                  for function in (libc.getpid, ctypes.pythonapi.Py_IncRef)}
        found, end = [], 0
        for page in sorted(pages):
            if page < end or not mapped(page):
                continue
            start = end = page
            while mapped(start - 4096):
                start -= 4096
            while mapped(end):
                end += 4096
            found += seek(ctypes.string_at(start, end - start))
        return sorted(set(found))
    """,
}
hostile("ok", {f"hunt in {n}": text for n, text in HUNTS.items()}, lambda text: SEEK + body(text))
hostile("ok error", {
    "hunt in the environment": "return dict(os.environ), libc.getenv(b'PLANTED')",
})

# These end at the wall limit of the worker, so they run side by side.
SLEEPERS = {
    "sleep": body("time.sleep(60)"),
    "sleep in pieces": body("while True: time.sleep(0.05)"),
    "sleep and swallow": body("import contextlib\nwith contextlib.suppress(BaseException):\n"
                              " while True: time.sleep(60)"),
    "wait for a lock": body("import _thread\nx = _thread.allocate_lock()\nwhile x.acquire(): pass"),
}

# ----------------------------------------------------------------------------------------------------------------
# Probes

# What the table in sandbox/kernel.py speaks of.  A probe gets through if it returns, or does not live to.
PROBES = {
    "read a file": "open(w['file']).close()",
    "write a file": "os.close(os.open(w['file'], os.O_WRONLY))",
    "make a folder": "os.mkdir(w['folder'] + '/new')",
    "remove a file": "os.unlink(w['folder'] + '/spare')",
    "see metadata": "os.stat(w['file'])",
    "change metadata": "os.chmod(w['folder'] + '/spare', 0o600)",
    "touch": "os.utime(w['folder'] + '/spare')",
    "tcp": "import _socket; _socket.socket(2, 1).connect(('127.0.0.1', w['tcp']))",
    "abstract socket": "import _socket; _socket.socket(1, 1).connect('\\0' + w['abstract'])",
    "fork": "os.fork() or os._exit(0)",
    "thread": "import _thread; _thread.start_new_thread(int, ())",
    "exec": "os.execv('/bin/true', ['true'])",
    "signal the worker": "os.kill(w['worker'], 0)",
    "signal the victim": "os.kill(w['victim'], 0)",
    "limit the worker": "raw('prlimit64', w['worker'], 7, 0, 0)",
    "limit the victim": "raw('prlimit64', w['victim'], 7, 0, 0)",
    "schedule the worker": "os.sched_setaffinity(w['worker'], os.sched_getaffinity(0))",
    "schedule the victim": "os.sched_setaffinity(w['victim'], os.sched_getaffinity(w['victim']))",
    "trace the worker": "raw('ptrace', 0x4206, w['worker'], 0, 0)",
    "read the worker": "raw('process_vm_readv', w['worker'], struct.pack('QQ', id(w), 8), 1,"
                       " struct.pack('QQ', id(w), 8), 1, 0)",
    "executable memory": "raw('mmap', 0, 4096, 7, 0x22, -1, 0)",
    "user namespace": "raw('unshare', 0x10000000)",
    "memory": f"bytearray({MEMORY} << 20)",
    "raise own limits": "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (64, 64))",
    "become root": "os.setuid(0)",
    "System V memory": "raw('shmctl', raw('shmget', w['key'], 4096, 0o1600), 0, 0)",
    "keys": "raw('keyctl', 0, -3, 0)",
}

# What a program finds: settings, the behaviour of builtins, and the content of all modules.
NEXT = """
import builtins, decimal, gc, hashlib, json, math, os, random, re, signal, sys, time, warnings
def look(value, deep=True):
    if type(value) in (int, str, bytes, bool, float, type(None), tuple):
        return repr(value)
    if isinstance(value, type) and deep:
        return sorted((k, look(v, False)) for k, v in vars(value).items())
    code = getattr(value, "__code__", None)
    return code.co_code if code else type(value).__name__
def f(x):
    modules = [(name, sorted((k, look(v)) for k, v in vars(sys.modules[name]).items()))
               for name in ("builtins", "__main__", "collections", "json", "math", "random", "re",
                            "statistics", "textwrap")]
    return (
        len(x), sorted(x), max(x), sum(x), list(map(abs, x)), f"{x!r:>20}", isinstance(1, int),
        json.dumps(x), json.loads("[1]"), re.sub("a", "b", "aa"), math.floor(2.5), 1 / 3, 250 + 0,
        str(decimal.Decimal(1) / 3), decimal.getcontext().prec, random.random(),
        sys.getrecursionlimit(), sys.get_int_max_str_digits(), sys.getswitchinterval(),
        gc.isenabled(), gc.get_threshold(), len(gc.callbacks), gc.get_freeze_count() > 1000,
        sys.gettrace() is sys.getprofile() is None, len(warnings.filters), dict(os.environ),
        signal.getsignal(14) == signal.SIG_DFL, sys.path, len(sys.meta_path),
        bool(sys.stdout and sys.stderr and sys.stdin), sorted(vars(builtins)),
        sorted(sys.modules), hashlib.sha256(repr(modules).encode()).hexdigest(),
    )
"""

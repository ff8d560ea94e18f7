"""Whether the sandbox holds, measured: a program that tries to break out, and what its success says.

All that the trainer needs to know of kernel.py, which runs in the workers alone.
"""
LAYERS = ("limits", "privileges", "uid", "landlock", "seccomp")
LEVELS = ("weak", "partial", "kernel")
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
        "make memory executable": lambda: call("mprotect", ctypes.c_void_p(libc.valloc(4096)), 4096, 7),
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
GRAVE = {"open files", "open sockets", "start processes"}


def level_of(leaks: list[str]) -> str:
    """kernel: the canary could do nothing; partial: nothing that reaches outside; else weak."""
    return "kernel" if not leaks else "weak" if GRAVE & set(leaks) else "partial"

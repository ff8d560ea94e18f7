"""The worker process, and the children that it forks to run programs: the executor's other side.

The trainer starts this file as a script, by exec (never by fork: CUDA and threads), with a clean environment.  The
worker imports what programs may want, gives up nearly every right it has (kernel.py), says which layers are missing,
and then forks one child for every job.  The child reads the job, runs the program on all its inputs, each in a fresh
namespace, and writes a record for each to a pipe that the worker passes on unread; exit status and CPU time come from
the kernel.  Neither programs nor results enter the worker's memory, so a later child cannot find them there.
What they send each other is in values.py.
"""
import fcntl
import gc
import importlib
import json
import math
import os
import select
import signal
import struct
import sys
import termios
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress

if __name__ == "__main__":  # Python has put this file's folder first, but modules are named from the one above
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from sandbox import kernel
from sandbox.determinism import ALLOWED_IMPORTS
from sandbox.values import (DATA, ENDED, FRAME, HEAD, HELLO, LATE, MAGIC, MAX_ERROR, MAX_RECORD, SPENT, from_wire,
                            is_name, to_short_wire)

RESULT_FD = 3
GLANCE_MS = 5
NAP_SECONDS = 1e-4  # what it takes to tell of a sleep: not the program's time
CODECS = "ascii latin_1 utf_7 utf_16 utf_32 utf_8_sig cp437 cp1252 idna shift_jis gbk big5"
PRELOAD = (*ALLOWED_IMPORTS, "ast", "hashlib", "unicodedata", *(f"encodings.{codec}" for codec in CODECS.split()))


def read_exactly(fd: int, size: int) -> bytes:
    """`size` bytes, or b"" at the end of the stream."""
    data = b""
    while len(data) < size:
        chunk = os.read(fd, size - len(data))
        if not chunk:
            return b""
        data += chunk
    return data


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data):]


# ----------------------------------------------------------------------------------------------------------------
# The child: from here on, the program can reach and change everything in its process, so nothing of it is believed

NAME_OF = type.__dict__["__name__"].__get__  # the class's own name: type(error).__name__ would ask its metaclass first


def describe(error: BaseException) -> str:
    """'Name: message'.  The class may be the program's own: then `Name` is what it calls itself if that is a name, else
    "exception", and there may be no message."""
    name, message = NAME_OF(type(error)), ""
    try:
        text = str(error)
        message = text[:MAX_ERROR] if type(text) is str else ""  # cut first: there may be no memory for a copy of it
    except BaseException:
        pass
    return f"{name if is_name(name) else 'exception'}: {message}"[:MAX_ERROR]


def call(code, entry: str, arguments: list, most: int) -> tuple[str, str]:
    """(kind, JSON of the encoded value or of an error text) of one call in a fresh namespace.

    `code` is the compiled program, or what compiling it raised.
    """
    try:
        if isinstance(code, BaseException):
            raise code
        namespace = {"__name__": "program"}
        exec(code, namespace)
        function = namespace.get(entry)
        if not callable(function):
            return "refused", json.dumps(f"no {entry}")
        value = function(*map(from_wire, arguments))
    except MemoryError:
        return "memory", '""'
    except BaseException as error:  # SystemExit and KeyboardInterrupt are just ways to fail
        return "error", json.dumps(describe(error))
    try:
        return "ok", to_short_wire(value, most)
    except TypeError as error:
        return "unserializable", json.dumps(str(error))
    except ValueError as error:
        return "too_big", json.dumps(str(error))
    except MemoryError:
        return "memory", '""'


def run_job(jobs: int, result: int, size: int, worker: int, lock: Callable[[], None]) -> None:
    """The life of a child: read the job of `size` bytes, give up the rest, answer every call (up to the first failure
    where they belong together)."""
    kernel.die_with_parent(worker)
    body = read_exactly(jobs, size)
    os.dup2(result, RESULT_FD)
    os.closerange(RESULT_FD + 1, kernel.MAX_FDS)
    lock()
    program, entry, together, most, inputs = json.loads(body)
    try:
        code = compile(program, "<program>", "exec", dont_inherit=True)
    except BaseException as error:
        code = error
    for position, arguments in enumerate(inputs):
        kind, payload = call(code, entry, arguments, most)
        record = f'[{position}, "{kind}", {payload}]'.encode()
        write_all(RESULT_FD, struct.pack("!I", len(record)) + record)
        if together and kind != "ok":
            break
    os._exit(0)


# ----------------------------------------------------------------------------------------------------------------
# The worker

def supervise(jobs: int, out: int, size: int, calls: int, limits: list[float], lock: Callable[[], None]) -> None:
    """Fork a child for the job of `size` bytes waiting in `jobs`, pass its bytes on unread, report its end."""
    worker = os.getpid()
    source, result = os.pipe()
    pid = kernel.libc.fork()  # os.fork's upkeep in the child (locks, threads, random) costs as much as the fork
    if pid == 0:
        try:
            run_job(jobs, result, size, worker, lock)
        finally:
            os._exit(1)
    os.close(result)
    exited = kernel.open_process(pid)  # a descendant may keep the pipe open, so its end says nothing
    tag = watch(pid, exited, source, jobs, out, calls, *limits)
    _, status, usage = os.wait4(pid, 0)
    os.close(source)
    os.close(exited)
    write_all(out, FRAME.pack(tag, status, usage.ru_utime + usage.ru_stime))


def watch(pid: int, exited: int, source: int, jobs: int, out: int, calls: int, cpu_seconds: float,
          all_seconds: float) -> bytes:
    """Pass a child's bytes on until it is gone (which `exited` tells); ENDED, or the limit for which it was killed.

    The limits are kept from outside, by the child's CPU clock: no timer that it could disarm.  `cpu_seconds` count from
    the last record, so every call has them.  Once it sleeps, both limits are of the wall clock.  Where the kernel does
    not tell of sleep, who runs for less than a twentieth of three times as long and a second counts as asleep.
    """
    poller = select.poll()
    for fd, events in ((source, select.POLLIN), (exited, select.POLLIN),
                       (jobs, 0)):  # reports only a hang-up: the trainer is gone
        poller.register(fd, events)
    if kernel.listener is not None:
        poller.register(kernel.listener, select.POLLIN)
    resets, tag, done, naps = calls, ENDED, False, 0
    room = calls * (MAX_RECORD + 4)  # bytes that honest records can have
    begun = now = checked = time.monotonic()
    cpu, cpu_checked, patience = 0.0, 0.0, 1 + 3 * cpu_seconds
    awake = asleep = awake_before = asleep_before = 0.0  # what its limits count, and would count if it slept
    # Most children end within milliseconds: one look at the end of those, not one at every result.
    glance = select.poll()
    glance.register(exited, select.POLLIN)
    glance.poll(min(GLANCE_MS, cpu_seconds * 1000))
    while not done:
        used, before = (asleep, asleep_before) if naps else (awake, awake_before)
        left = min(before + cpu_seconds, all_seconds) - used
        if kernel.listener is None:
            left = min(left, checked + patience - now)
        ready = dict(poller.poll(None if tag != ENDED else max(0, math.ceil(left * 1000))))
        if jobs in ready:
            os._exit(0)
        if kernel.listener in ready and tag == ENDED:
            naps += 1
            try:
                kernel.let_sleep()
            except OSError:
                tag = LATE
            if len(ready) == 1 and time.monotonic() < now + GLANCE_MS / 1000 and tag == ENDED:
                continue  # thousands of short ones must not cost more than they last
        # A second glance gathers what a child writes in drips: the trainer pays for every frame.
        done = exited in ready or source in ready and bool(glance.poll(GLANCE_MS))
        (waiting,) = struct.unpack("i", fcntl.ioctl(source, termios.FIONREAD, bytes(4)))
        try:
            cpu = time.clock_gettime(~pid << 3 | 2)  # the CPU clock of process `pid`
        except OSError:
            pass  # it has just ended
        now = time.monotonic()
        awake, asleep = cpu, now - begun - min(cpu_seconds, naps * NAP_SECONDS)
        if waiting:
            write_all(out, FRAME.pack(DATA, waiting, cpu))
            room -= waiting
            while waiting:
                waiting -= os.splice(source, out, waiting)  # so they never enter the worker's memory
            if resets:  # a call has finished, or a hostile program pretends so: not for ever
                resets -= 1
                awake_before, asleep_before, checked, cpu_checked = awake, asleep, now, cpu
        elif source in ready:
            poller.unregister(source)  # closed by a child that goes on without it
        if done:
            continue
        used, before = (asleep, asleep_before) if naps else (awake, awake_before)
        if tag == ENDED and (used - before >= cpu_seconds or used >= all_seconds):
            tag = LATE if naps else SPENT
        elif kernel.listener is None and now >= checked + patience:
            if cpu - cpu_checked < 0.05 * (now - checked):
                tag = LATE
            checked, cpu_checked, patience = now, cpu, 1
        if tag != ENDED or room < 0:
            kernel.kill_process(exited)
    return tag


def main(memory_mb: int, stack: int, parent: int, without: tuple[str, ...], preload: tuple[str, ...]) -> None:
    jobs, out, errors = os.dup(0), os.dup(1), os.dup(2)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2, RESULT_FD):
        if fd not in (jobs, out, errors):
            os.dup2(null, fd)
    try:
        for name in PRELOAD + preload:
            importlib.import_module(name)
        warnings.simplefilter("ignore")
        sys.setrecursionlimit(stack)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")  # where memory ends, programs go first, and not the trainer
        missing = kernel.confine(parent, memory_mb, without)
        lock = kernel.child_lock(missing)
        hello = json.dumps(missing).encode()
        write_all(out, FRAME.pack(HELLO, len(hello), 0.0) + hello)
        gc.collect()
        gc.freeze()  # keeps collections in the children from touching, and so copying, every page
        while head := read_exactly(jobs, HEAD.size):
            magic, size, calls, *limits = HEAD.unpack(head)
            if magic != MAGIC:
                break  # a child died before it had read its job; a fresh worker is simplest
            supervise(jobs, out, size, calls, limits, lock)
    except BaseException:
        os.write(errors, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    memory, frames, trainer, layers, modules = sys.argv[1:]
    del sys.argv[1:]  # no program needs to find these
    main(int(memory), int(frames), int(trainer), *(tuple(filter(None, text.split(","))) for text in (layers, modules)))

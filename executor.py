"""Run model-written Python functions in throw-away processes and bring back plain data.

The trainer never compiles, evaluates or unpickles model text.  It starts worker processes by
exec (never fork: CUDA and threads) with a clean environment; each worker preloads a few standard
modules, gives up nearly every right it has (sandbox.py), and then forks one child per (program,
hash seed).  The child runs the program on all its inputs, each in a fresh namespace, and writes
tagged JSON to a pipe that the worker passes on unread; exit status and CPU time come from the
kernel.  Neither programs nor results stay in the worker's memory, so a later child cannot find
them there.

A child can forge only the value of its own run, so never put an expected value into a Job.  Runs
of one child share imported modules; `seeds=2` exposes programs that depend on that, on the order
of hashes or calls, on addresses or on time.  Limits are CPU time: a busy machine changes no
verdict.  `Executor.level` says what the kernel really keeps from programs here.

As a command: python executor.py ARGUMENTS... < program.py
"""

import collections
import fcntl
import gc
import importlib
import json
import math
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import traceback
import warnings
import weakref
from dataclasses import dataclass, field, replace

from sandbox import kernel as sandbox
from sandbox.parsing import (  # the rest of the literals' grammar; used below and by callers
    ALLOWED_IMPORTS,
    MAX_DEPTH,
    MAX_INT_BITS,
    parse_arguments,
    parse_literal,
)

LEVELS = ("weak", "partial", "kernel")
MAX_PROGRAM = 100_000  # characters of source
MAX_VALUE = 64_000  # characters of one encoded value
MAX_INPUT = 1 << 25  # the same of the arguments of a job with limits of its own: a benchmark's
MAX_RECORD = MAX_VALUE + 100  # bytes of one run's record
MAX_ERROR = 200  # characters of an error text


class ExecutorError(Exception):
    """The executor cannot start; the text is one line that says why and what to do."""


@dataclass(frozen=True)
class Job:
    """One program and the argument tuples (plain literal values) to call its `entry` with.

    With seeds=2 every input also runs under a second hash seed, in reversed order.  `limits`:
    CPU seconds of one run and of all together, in place of the executor's; the first run that ends
    the process, for instance by running out of them, then ends the job, and the rest is refused.
    """

    program: str
    inputs: tuple
    entry: str = "f"
    seeds: int = 1
    limits: tuple | None = None

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError("seeds must be at least 1")


@dataclass(frozen=True)
class Run:
    """The outcome of one call.  Values may be shared with the cache: do not change them.

    kind: ok | error (it raised) | timeout | memory | crash (no result) | violation (it tried what
    only an attack does) | unserializable | too_big | nondeterministic | refused (not run, or no
    such function) | infra (ours to blame, no verdict)
    """

    kind: str
    value: object = None
    error: str = ""
    cpu_seconds: float = 0.0


# ---- values: text, equality, wire format ---------------------------------------------------------

_SCALARS = (type(None), bool, int, float, str)
def _in_order(values):
    """The elements of a set in an order that does not depend on the hash seed."""
    kinds = set(map(type, values))
    if kinds == {str} or kinds <= {int, float} and all(value == value for value in values):
        return sorted(values)
    return sorted(values, key=show)


def show(value):
    """Text that parse_literal reads back to the same value, if within its limits.

    TypeError if the value is not plain data, ValueError for an int beyond 4,300 digits.
    """
    kind = type(value)
    if kind is float and not math.isfinite(value):
        return f"float('{value}')"
    if kind is complex and value.real == 0 and "-" in repr(value):
        return f"({value.real}{value.imag:+}j)"  # repr is not exact about the sign of zero here
    if kind in _SCALARS or kind is complex or kind is bytes:
        return repr(value)
    if kind is list:
        return "[" + ", ".join(map(show, value)) + "]"
    if kind is tuple:
        return "(" + ", ".join(map(show, value)) + ("," if len(value) == 1 else "") + ")"
    if kind is dict:
        return "{" + ", ".join(f"{show(k)}: {show(v)}" for k, v in value.items()) + "}"
    if kind is set or kind is frozenset:
        inner = "{" + ", ".join(map(show, _in_order(value))) + "}" if value else ""
        return f"frozenset({inner})" if kind is frozenset else inner or "set()"
    raise TypeError(f"{kind.__name__} is not plain data")


def _canonical(value):
    kind = type(value)
    if kind in (type(None), bool, str, bytes):
        return kind.__name__, value
    if kind is complex and value.imag != 0:
        return "complex", _canonical(value.real), _canonical(value.imag)
    if kind in (int, float, complex):
        number = value.real
        return ("number", number) if number == number else ("nan",)
    if kind is list or kind is tuple:
        return (kind.__name__, *map(_canonical, value))
    # Counted, because a set or dict can hold several nan.
    if kind is set or kind is frozenset:
        return "set", frozenset(collections.Counter(map(_canonical, value)).items())
    if kind is dict:
        items = ((_canonical(k), _canonical(v)) for k, v in value.items())
        return "dict", frozenset(collections.Counter(items).items())
    raise TypeError(f"{kind.__name__} is not plain data")


def same_value(a, b):
    """Whether two plain values are equal; TypeError for anything but exact builtin types.

    Numbers compare by value (1 == 1.0 == 1+0j, -0.0 == 0.0), but nan equals nan and a bool equals
    only a bool, also inside containers and as a dict key.  list != tuple and str != bytes; a set
    equals a frozenset of the same elements.  Order counts in lists and tuples only.
    """
    return _canonical(a) == _canonical(b)


def _check_hashes(items):
    """ValueError where many elements of a set or keys of a dict share a hash.

    Building and comparing those takes time in the square of their number: 1.2 s for 64 kB of
    frozensets.  Honest values share hashes in twos (-1 and -2).
    """
    if len(items) > 50 and max(collections.Counter(map(hash, items)).values()) > 50:
        raise ValueError("too many equal hashes")


_TAGS = {list: "l", tuple: "t", set: "s", frozenset: "z", dict: "d"}


def _encode(value, most=MAX_VALUE):
    """Type-tagged JSON text; TypeError: not plain data, ValueError: too big, deep or cyclic."""
    budget = most

    def walk(value, depth):
        nonlocal budget
        kind = type(value)
        sized = kind in _TAGS or kind is str or kind is bytes
        budget -= 1 + (len(value) if sized else 0)  # before any work in proportion to the size
        if budget < 0:
            raise ValueError("value too big")
        if kind is int and value.bit_length() > 63:
            if value.bit_length() > MAX_INT_BITS:
                raise ValueError("integer too long")
            return ["i", hex(value)]
        if kind in _SCALARS:
            return value
        if kind is bytes:
            return ["b", value.hex()]
        if kind is complex:
            return ["c", value.real, value.imag]
        if kind not in _TAGS:
            raise TypeError("the value is not plain data")
        if depth == 0:
            raise ValueError("nested too deeply")
        if kind in (dict, set, frozenset):
            _check_hashes(value)
        if kind is dict:
            items = [part for pair in value.items() for part in pair]
        else:
            items = _in_order(value) if kind in (set, frozenset) else value
        return [_TAGS[kind], *[walk(item, depth - 1) for item in items]]

    text = json.dumps(walk(value, MAX_DEPTH), separators=(",", ":"))
    if len(text) > most:
        raise ValueError("value too big")
    return text


def _decode(tree, depth=MAX_DEPTH):
    """The value of a loaded JSON tree; raises some Exception for anything _encode cannot write."""
    if type(tree) in _SCALARS:
        if type(tree) is int and tree.bit_length() > 63:
            raise ValueError("untagged long integer")
        return tree
    tag, *rest = tree
    if tag in ("i", "b", "c"):
        if tag == "c":
            return complex(*rest)
        (text,) = rest
        value = int(text, 16) if tag == "i" else bytes.fromhex(text)
        if tag == "i" and value.bit_length() > MAX_INT_BITS:
            raise ValueError("integer too long")
        return value
    if depth == 0:
        raise ValueError("nested too deeply")
    items = [_decode(item, depth - 1) for item in rest]
    if tag in ("d", "s", "z"):
        _check_hashes(items[::2] if tag == "d" else items)
    if tag == "d":
        return dict(zip(items[::2], items[1::2], strict=True))
    return {"l": list, "t": tuple, "s": set, "z": frozenset}[tag](items)


# ---- the worker process --------------------------------------------------------------------------

# trainer -> worker: magic, bytes of the job that follows, runs, CPU seconds of one and of all
_HEAD = struct.Struct("!4sIIdd")
_MAGIC = b"\0job"  # a job is JSON, which has no NUL: leftovers of a job never pass for a head
_FRAME = struct.Struct("!cId")  # worker -> trainer: tag, size or exit status, CPU seconds so far
# What a frame brings: the layers that are missing; a child's bytes; a child's end, by itself or by
# the worker at the CPU limit or, asleep, at the wall limit.
_HELLO, _DATA, _ENDED, _SPENT, _LATE = b"H", b"D", b"E", b"T", b"L"
_RESULT_FD = 3
_GLANCE_MS = 5
# Elsewhere (macOS, to try the code) a pipe tells of a child's end, and only the wall limit holds.
_LINUX = hasattr(os, "pidfd_open")
_CODECS = "ascii latin_1 utf_7 utf_16 utf_32 utf_8_sig cp437 cp1252 idna shift_jis gbk big5"
_PRELOAD = (
    *ALLOWED_IMPORTS, "ast", "hashlib", "unicodedata", *(f"encodings.{c}" for c in _CODECS.split()),
)  # fmt: skip


def _read_exactly(fd, size):
    """`size` bytes, or b"" at the end of the stream."""
    data = b""
    while len(data) < size:
        chunk = os.read(fd, size - len(data))
        if not chunk:
            return b""
        data += chunk
    return data


def _write_all(fd, data):
    while data:
        data = data[os.write(fd, data) :]


def _waiting_bytes(fd):
    return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]


def _pass_on(source, out, size):
    """Move `size` waiting bytes; by splice they never enter the worker's memory."""
    while size:
        if hasattr(os, "splice"):
            size -= os.splice(source, out, size)
        else:
            data = os.read(source, size)
            size -= len(data)
            _write_all(out, data)


def _describe(error):
    """'TypeName: message'; the class is the program's own, so nothing about it is trusted."""
    try:
        name, text = type(error).__name__, str(error)
        return f"{name}: {text}"[:MAX_ERROR] if type(name) is type(text) is str else "exception"
    except BaseException:
        return "exception"


def _run_once(code, entry, arguments):
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
        value = function(*map(_decode, arguments))
    except MemoryError:
        return "memory", '""'
    except BaseException as error:  # SystemExit and KeyboardInterrupt are just ways to fail
        return "error", json.dumps(_describe(error))
    try:
        return "ok", _encode(value)
    except TypeError as error:
        return "unserializable", json.dumps(str(error))
    except ValueError as error:
        return "too_big", json.dumps(str(error))
    except MemoryError:
        return "memory", '""'


def _child(jobs, result, held, size, worker, lock):
    sandbox.die_with_parent(worker)
    body = _read_exactly(jobs, size)
    os.dup2(result, _RESULT_FD)
    if held:
        os.dup2(held, _RESULT_FD + 1)
    os.closerange(_RESULT_FD + (2 if held else 1), sandbox.MAX_FDS)
    lock()
    program, entry, inputs = json.loads(body)
    try:
        code = compile(program, "<program>", "exec", dont_inherit=True)
    except BaseException as error:
        code = error
    for position, arguments in enumerate(inputs):
        kind, payload = _run_once(code, entry, arguments)
        record = f'[{position}, "{kind}", {payload}]'.encode()
        _write_all(_RESULT_FD, struct.pack("!I", len(record)) + record)
    os._exit(0)


def _kill(pid, exited):
    if _LINUX:  # by descriptor: a child, which can have none, cannot do the same to its worker
        signal.pidfd_send_signal(exited, signal.SIGKILL)
    else:
        os.kill(pid, signal.SIGKILL)


def _supervise(jobs, out, size, runs, cpu_seconds, all_seconds, lock):
    """Fork a child for the job waiting in `jobs`, pass its bytes on unread, report its end.

    The limits are kept from outside, by the child's CPU clock: no timer that it could disarm.
    """
    worker = os.getpid()
    source, result = os.pipe()
    exited, held = (None, None) if _LINUX else os.pipe()
    # Not os.fork, whose upkeep in the child (locks, threads, random) costs as much as the fork.
    pid = sandbox.libc.fork() if _LINUX else os.fork()
    if pid == 0:
        try:
            _child(jobs, result, held, size, worker, lock)
        finally:
            os._exit(1)
    os.close(result)
    if _LINUX:
        exited = os.pidfd_open(pid)  # a descendant may keep the pipe open, so its end says nothing
    else:
        os.close(held)  # the child holds the other copy to its end
    poller = select.poll()
    poller.register(source, select.POLLIN)
    poller.register(exited, select.POLLIN)
    poller.register(jobs, 0)  # reports only a hang-up: the trainer is gone
    wall, resets, tag, done = 2 + 6 * cpu_seconds, runs, _ENDED, False
    room = runs * (MAX_RECORD + 4)  # bytes that honest records can have
    since, cpu, counted_from = time.monotonic(), 0.0, 0.0
    deadline, before = since + wall, 0.0
    # Most children end within milliseconds: one look at the end of those, not one at every result.
    glance = select.poll()
    glance.register(exited, select.POLLIN)
    glance.poll(min(_GLANCE_MS, cpu_seconds * 1000))
    while not done:
        left = min(counted_from + cpu_seconds, all_seconds) - cpu
        patience = min(deadline - time.monotonic(), left)
        ready = dict(poller.poll(None if tag != _ENDED else max(0, math.ceil(patience * 1000))))
        if jobs in ready:
            os._exit(0)
        done = exited in ready
        waiting = _waiting_bytes(source)
        try:
            cpu = time.clock_gettime(~pid << 3 | 2)  # the CPU clock of process `pid`
        except OSError:
            pass  # it has just ended
        if waiting:
            _write_all(out, _FRAME.pack(_DATA, waiting, cpu))
            _pass_on(source, out, waiting)
            room -= waiting
            if resets:  # a run has finished, or a hostile program pretends so: not for ever
                resets -= 1
                since, counted_from, before = time.monotonic(), cpu, cpu
                deadline = since + wall
        elif source in ready:
            poller.unregister(source)  # closed by a child that goes on without it
        if not done and room < 0:
            _kill(pid, exited)
        elif not done and tag == _ENDED:
            if cpu - counted_from >= cpu_seconds or cpu >= all_seconds:
                tag = _SPENT
            elif (now := time.monotonic()) >= deadline:
                # Asleep if it ran for less than a twentieth of the time; else the machine is busy.
                if cpu - before < 0.05 * (now - since):
                    tag = _LATE
                since, before, deadline = now, cpu, now + 1
            if tag != _ENDED:
                _kill(pid, exited)
    _, status, usage = os.wait4(pid, 0)
    os.close(source)
    os.close(exited)
    _write_all(out, _FRAME.pack(tag, status, usage.ru_utime + usage.ru_stime))


def _worker_main(memory_mb, parent, without, preload):
    jobs, out, errors = os.dup(0), os.dup(1), os.dup(2)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2, _RESULT_FD):
        if fd not in (jobs, out, errors):
            os.dup2(null, fd)
    try:
        for name in _PRELOAD + preload:
            importlib.import_module(name)
        warnings.simplefilter("ignore")
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        missing = sandbox.confine(parent, memory_mb, without)
        lock = sandbox.child_lock(missing)
        hello = json.dumps(missing).encode()
        _write_all(out, _FRAME.pack(_HELLO, len(hello), 0.0) + hello)
        gc.collect()
        gc.freeze()  # keeps collections in the children from touching, and so copying, every page
        while head := _read_exactly(jobs, _HEAD.size):
            magic, size, runs, cpu_seconds, all_seconds = _HEAD.unpack(head)
            if magic != _MAGIC:
                break  # a child died before it had read its job; a fresh worker is simplest
            _supervise(jobs, out, size, runs, cpu_seconds, all_seconds, lock)
    except BaseException:
        os.write(errors, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)


# ---- the trainer's side --------------------------------------------------------------------------

_START_SECONDS = 120  # for the imports of a worker: some take seconds of CPU time, and the machine may be busy
_AHEAD = 4  # jobs sent to a worker before the first has ended: it need not wait for the trainer
_MAX_CACHED = 20_000  # characters of program, inputs and results of a job that is worth keeping


class _Lost(Exception):
    """The worker died, stopped answering, or sent nonsense."""


@dataclass(eq=False)
class _Group:
    """Equal jobs in flight, run once for all of them."""

    key: tuple
    job: Job
    inputs: tuple  # JSON text of each argument list; None where refused
    indices: list  # of the jobs
    tasks: list = field(default_factory=list)  # one per hash seed
    ended: bool = False


@dataclass(eq=False)
class _Task:
    """One job under one hash seed: the inputs (their indices) still to run, and what ran."""

    group: _Group
    hash_seed: int
    pending: list
    runs: dict
    losses: int = 0
    size: int = 0  # of its results, in bytes

    def note(self, run):
        """Keep the Run of the first pending input; in this order, lest an interrupt lose it."""
        self.runs[self.pending[0]] = run
        self.pending.pop(0)


def _read_record(data, position):
    """The Run in one record of a child; None unless it is exactly what a child should write."""
    try:
        claimed, kind, payload = json.loads(data)
        if claimed != position:
            return None
        if kind == "ok":
            return Run("ok", _decode(payload))
        if kind in ("error", "memory", "unserializable", "too_big", "refused"):
            return Run(kind, error=str(payload)[:MAX_ERROR])
    except Exception:  # hostile bytes: whatever they provoke means the same
        pass
    return None


class _Worker:
    """A worker process with one hash seed, and the tasks it has been sent; the first is running."""

    def __init__(self, hash_seed, cpu_seconds, memory_mb, without, preload):
        # Parent-death signals follow the thread that forked, so only the main thread's count;
        # otherwise (and also) a worker leaves when its job pipe hangs up.
        main = threading.current_thread() is threading.main_thread()
        parent = os.getpid() if main else 0
        arguments = map(str, (memory_mb, parent, ",".join(without), ",".join(preload)))
        environment = {"PYTHONHASHSEED": str(hash_seed), "LC_ALL": "C.UTF-8"}
        if preload:  # found where the trainer would find them
            environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        self.hash_seed, self.cpu_seconds = hash_seed, cpu_seconds
        self.process = subprocess.Popen(
            # Not -I: it would ignore PYTHONHASHSEED.
            [sys.executable, "-s", "-S", "-B", os.path.abspath(__file__), "--worker", *arguments],
            env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            bufsize=0, cwd="/", close_fds=True, start_new_session=True,
        )  # fmt: skip
        self.to, self.back = self.process.stdin.fileno(), self.process.stdout.fileno()
        for fd in (self.to, self.back, self.process.stderr.fileno()):
            os.set_blocking(fd, False)
        self.tasks, self.unsent = collections.deque(), memoryview(b"")
        self.frames, self.missing = bytearray(), None  # missing: the layers; None until it has started
        self._new_head()

    def _new_head(self):
        self.records, self.position, self.cpu, self.malformed = bytearray(), 0, 0.0, False
        self._extend()

    def _limits(self, task):
        return task.group.job.limits or (self.cpu_seconds, math.inf)

    def _extend(self):
        seconds = self._limits(self.tasks[0])[0] if self.tasks else self.cpu_seconds
        patience = 5 if self.missing is not None else _START_SECONDS
        self.deadline = time.monotonic() + patience + 30 * seconds

    def push(self, task):
        """Send the task's pending inputs; only when all that was sent before has left."""
        job = task.group.job
        inputs = ",".join(task.group.inputs[index] for index in task.pending)
        body = f"[{json.dumps(job.program)},{json.dumps(job.entry)},[{inputs}]]".encode()
        head = _HEAD.pack(_MAGIC, len(body), len(task.pending), *self._limits(task))
        self.unsent = memoryview(head + body)
        self.tasks.append(task)
        if len(self.tasks) == 1:
            self._new_head()
        self.send()

    def send(self):
        try:
            self.unsent = self.unsent[os.write(self.to, self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:  # it has died: `receive` will find the end of its output
            self.unsent = memoryview(b"")

    def receive(self):
        """Read what is there: (the tasks whose child has ended, done or (if pending) not, lost)."""
        ended = []
        try:
            data = os.read(self.back, 1 << 16)
            if not data:
                return ended, True
            self.frames += data
            self._take_frames(ended)
        except BlockingIOError:
            pass
        except (_Lost, ValueError):  # ValueError: no JSON, or no exit status, so not our worker
            return ended, True
        return ended, False

    def _take_frames(self, ended):
        while len(self.frames) >= _FRAME.size:
            tag, number, cpu = _FRAME.unpack_from(self.frames)
            if tag in (_ENDED, _SPENT, _LATE) and self.tasks:
                if self.unsent and len(self.tasks) == 1:
                    raise _Lost  # the child died while reading its job
                self._ended(tag, number, cpu)
                ended.append(self.tasks.popleft())
                del self.frames[: _FRAME.size]
                self._new_head()
                continue
            end = _FRAME.size + number
            if tag not in (_HELLO, _DATA) or number > 1 << 20:
                raise _Lost
            if len(self.frames) < end:
                break
            content = self.frames[_FRAME.size : end]
            del self.frames[:end]
            if tag == _HELLO:
                self.missing = json.loads(content)
            elif self.tasks:
                self.records += content
                self._take_records(cpu)
                self._extend()  # the worker bounds how often bytes buy time

    def _take_records(self, cpu):
        task, runs = self.tasks[0], []
        while not self.malformed and len(self.records) >= 4:
            end = 4 + int.from_bytes(self.records[:4], "big")
            if end > 4 + MAX_RECORD or len(runs) == len(task.pending):
                self.malformed = True
            elif len(self.records) < end:
                break
            elif run := _read_record(bytes(self.records[4:end]), self.position):
                runs.append(run)
                task.size += end
                self.position += 1
                del self.records[:end]
            else:
                self.malformed = True
        if self.malformed:
            self.records.clear()
        for run in runs:
            task.note(replace(run, cpu_seconds=(cpu - self.cpu) / len(runs)))
        if runs:
            self.cpu = cpu

    def _ended(self, tag, status, cpu):
        """The child is gone; if inputs are left, it took the first of them with it."""
        task, used = self.tasks[0], max(0.0, cpu - self.cpu)  # two clocks that differ by some µs
        if not task.pending:
            return
        code = os.waitstatus_to_exitcode(status)
        shot = tag == _ENDED and code == -signal.SIGKILL and "seccomp" not in self.missing
        if shot and not self.malformed:
            raise _Lost  # under seccomp it cannot do that to itself: the machine had no memory left
        if tag != _ENDED:
            what = "of CPU time" if tag == _SPENT else "asleep"
            run = Run("timeout", error=f"over {self._limits(task)[0]:g} s {what}")
        elif self.malformed:
            run = Run("crash", error="malformed result")
        elif code == -signal.SIGSYS:
            run = Run("violation", error="a system call that only an attack makes")
        else:
            end = f"signal {-code}" if code < 0 else f"exit {code}"
            run = Run("crash", error=f"{end} without a result")
        task.note(replace(run, cpu_seconds=used))
        while task.pending and task.group.job.limits:
            task.note(Run("refused", error="an earlier run has ended the process"))

    def last_words(self):
        """What a dying worker wrote to its stderr; it is ours, no program can reach it."""
        try:
            return (os.read(self.process.stderr.fileno(), 10_000) or b"").decode(errors="replace")
        except BlockingIOError:
            return ""

    def kill(self):
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()
        self.process.wait()


def _kill_all(slots, owner):
    if os.getpid() == owner:  # a forked copy of the trainer must not end the trainer's workers
        for slot in slots:
            while slot:
                slot.popitem()[1].kill()


def _encode_arguments(arguments, most):
    """JSON text of the encoded arguments of one call, None if they cannot be sent."""
    try:
        text = "[" + ",".join(_encode(value, most) for value in arguments) + "]"
    except (TypeError, ValueError):
        return None
    return text if len(text) <= most else None


def _merge(runs):
    """One Run out of the Runs of one input under several hash seeds."""
    first = runs[0]
    for run in runs:
        if run.kind == "infra":
            return run
    for run in runs[1:]:
        if (run.kind != first.kind or run.kind == "ok" and not same_value(run.value, first.value)
                or run.error.split(":")[0] != first.error.split(":")[0]):
            return Run("nondeterministic", error="differs between hash seeds or call orders")
    return first


class Executor:
    """Runs Jobs in `workers` worker slots, one program at a time in each.

    cpu_seconds and memory_mb (address space) limit every run; pool_mb all programs together (half
    of the machine's memory if not given): fewer slots are used where they would exceed it.
    `require` is the least `level` to start with, else ExecutorError; `without` leaves out layers
    of sandbox.py, for tests and measurements.  Up to `cached_jobs` results are kept.  `preload`
    names modules that programs may import beyond the usual ones; they are trusted, and imported
    before a worker gives up its rights.  Only one thread may use an executor at a time.
    """

    def __init__(
        self, workers=2, cpu_seconds=1.0, memory_mb=512, require="kernel", cached_jobs=10_000,
        pool_mb=None, without=(), preload=(),
    ):  # fmt: skip
        if workers < 1 or cpu_seconds <= 0 or memory_mb < 64:
            raise ValueError("an executor needs a worker, CPU time, and 64 MB a program")
        if require not in LEVELS or not set(without) <= set(sandbox.LAYERS):
            raise ValueError(f"require is one of {LEVELS}, without some of {sandbox.LAYERS}")
        if pool_mb is None:
            pool_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 21
        self._options = cpu_seconds, memory_mb, tuple(without), tuple(preload)
        self._cached_jobs = cached_jobs
        self._cache = collections.OrderedDict()
        self._lock = threading.Lock()
        self._queues = collections.defaultdict(collections.deque)  # hash seed: tasks to send
        self._busy = {}  # slot number: worker
        self._complaint, self.level = "", None
        self._slots = []  # per slot {hash seed: worker}; one of them runs at a time
        self._finalizer = weakref.finalize(self, _kill_all, self._slots, os.getpid())
        for _ in range(max(1, min(workers, pool_mb // memory_mb))):
            self._slots.append({0: _Worker(0, *self._options)})
        try:
            self._measure(require)
        except BaseException:
            self.close()
            raise

    def _measure(self, require):
        """Set `level` to what a canary, run like any program, shows the sandbox to be."""
        worker = self._slots[0][0]
        ((canary,),) = self.run([Job(sandbox.CANARY, ((),))])
        self._cache.clear()
        if canary.kind != "ok" or worker.missing is None:
            said = self._complaint.strip().split("\n")[-1] or canary.error
            raise ExecutorError(f"no worker process of the executor starts here: {said}")
        self.leaks, self.level = canary.value, sandbox.level_of(canary.value)
        if LEVELS.index(self.level) < LEVELS.index(require):
            reasons = "; ".join(f"{name}: {why}" for name, why in worker.missing.items())
            raise ExecutorError(
                f"the sandbox reaches only level {self.level!r} here, and {require!r} is required:"
                f" programs can {', '.join(self.leaks)} ({reasons or 'no layer is missing'}). Use"
                " Linux with seccomp (a default Docker container has it), or accept the risk with"
                f" --require {self.level}"
            )

    def close(self):
        """End all workers; idempotent.  Also done at garbage collection and interpreter exit."""
        self._finalizer()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def run(self, jobs):
        """The Runs (one per input) of every job, in the order of the jobs: list[list[Run]]."""
        jobs = list(jobs)
        results = [None] * len(jobs)
        for index, runs in self.stream(jobs):
            results[index] = runs
        return results

    def stream(self, jobs):
        """Yield (index of the job, its list of Runs) as jobs finish; one stream at a time."""
        if not self._finalizer.alive:
            raise RuntimeError("the executor is closed")
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("this executor is in use, by another thread or an open stream")
        try:
            groups, done = {}, []
            for index, job in enumerate(jobs):
                group = self._group(job)
                groups.setdefault(group.key, group).indices.append(index)
            for group in groups.values():
                self._plan(group, done)
            left = len(groups)
            while left:
                if not done:
                    self._feed()
                    self._step(done)
                asked = time.monotonic()
                for group, runs in done:
                    left -= 1
                    yield from ((index, list(runs)) for index in group.indices)
                done.clear()
                for worker in self._busy.values():  # the time the caller took does not count
                    worker.deadline += time.monotonic() - asked
        finally:
            while self._busy:  # interrupted or abandoned, perhaps in the middle of a message: start afresh
                self._drop(next(iter(self._busy)))
            self._queues.clear()
            self._lock.release()

    def _group(self, job):
        most = MAX_INPUT if job.limits else MAX_VALUE
        inputs = tuple(_encode_arguments(arguments, most) for arguments in job.inputs)
        return _Group((job.program, job.entry, job.seeds, job.limits, inputs), job, inputs, [])

    def _plan(self, group, done):
        """Queue the tasks of a group, or finish it where there is nothing to run."""
        good, refused = [], {}
        for index, encoded in enumerate(group.inputs):
            if len(group.job.program) > MAX_PROGRAM:
                refused[index] = Run("refused", error="program too long")
            elif encoded is None:
                refused[index] = Run("refused", error="input too big or not plain data")
            else:
                good.append(index)
        for seed in range(group.job.seeds):
            pending = good[::-1] if seed % 2 else good[:]
            group.tasks.append(_Task(group, seed, pending, dict(refused)))
        if group.key in self._cache:
            self._cache.move_to_end(group.key)
            done.append((group, self._cache[group.key]))
        elif good:
            for task in group.tasks:
                self._queues[task.hash_seed].append(task)
        else:
            self._finish(group, done)

    def _finish(self, group, done):
        """Merge and keep the group's Runs, if all of its tasks are done."""
        if any(task.pending for task in group.tasks) or group.ended:
            return  # the latter: all results were in before the last child had ended
        group.ended = True
        count = range(len(group.inputs))
        runs = [_merge([task.runs[index] for task in group.tasks]) for index in count]
        done.append((group, runs))
        size = len(group.job.program) + sum(len(text or "") for text in group.inputs)
        size += sum(task.size for task in group.tasks)
        if size <= _MAX_CACHED and all(run.kind != "infra" for run in runs):
            self._cache[group.key] = runs
            if len(self._cache) > self._cached_jobs:
                self._cache.popitem(last=False)

    def _feed(self):
        """Send queued tasks, to every slot its first before any gets a second."""
        for ahead in range(_AHEAD):
            for number in range(len(self._slots)):
                worker = self._busy.get(number)
                if worker and (len(worker.tasks) != ahead or worker.unsent) or not worker and ahead:
                    continue
                longest = max(self._queues, key=lambda seed: len(self._queues[seed]), default=0)
                if queue := self._queues[worker.hash_seed if worker else longest]:
                    self._send(number, queue.popleft())

    def _send(self, number, task):
        slot = self._slots[number]
        worker = slot.get(task.hash_seed)
        if worker and not worker.tasks and worker.process.poll() is not None:  # died while idle
            slot.pop(task.hash_seed).kill()
            worker = None
        if worker is None:
            worker = slot[task.hash_seed] = _Worker(task.hash_seed, *self._options)
        self._busy[number] = worker
        worker.push(task)  # where it is lost, _step learns so from its pipe

    def _drop(self, number):
        worker = self._busy.pop(number)
        worker.kill()
        self._slots[number].pop(worker.hash_seed, None)
        return worker

    def _lost(self, number, done):
        """Replace the slot's worker and queue its tasks again; the first is to blame."""
        words = self._busy[number].last_words()
        if words and not self._complaint:  # once: the next ones will say the same
            self._complaint = words
            if self.level:
                print(f"executor: a worker failed and is replaced:\n{words}", file=sys.stderr)
        tasks = self._drop(number).tasks
        if tasks and tasks[0].pending:
            head = tasks[0]
            head.losses += 1
            while head.losses > 1 and head.pending:
                head.note(Run("infra", error="the worker was lost twice"))
        for task in reversed(tasks):
            self._take_back(task, done)

    def _take_back(self, task, done):
        """A task that no worker has any more: queue what is left of it, or finish its group."""
        if task.pending:
            self._queues[task.hash_seed].appendleft(task)
        else:
            self._finish(task.group, done)

    def _step(self, done):
        """Wait for news of the busy workers and take it; finished groups go to `done`."""
        poller = select.poll()
        for worker in self._busy.values():
            poller.register(worker.back, select.POLLIN)
            if worker.unsent:
                poller.register(worker.to, select.POLLOUT)
        patience = min(worker.deadline for worker in self._busy.values()) - time.monotonic()
        ready = dict(poller.poll(math.ceil(max(0, patience) * 1000)))
        for number, worker in list(self._busy.items()):
            ended, lost = [], time.monotonic() > worker.deadline
            if worker.to in ready:
                worker.send()
            if worker.back in ready:
                ended, lost = worker.receive()
            for task in ended:
                self._take_back(task, done)
            if lost:
                self._lost(number, done)
            elif not worker.tasks:
                del self._busy[number]


def _main(arguments):
    try:
        inputs = tuple(map(parse_arguments, arguments))
    except ValueError as error:
        sys.exit(f"arguments: {error}")
    program = sys.stdin.read()
    with Executor(workers=1, require="weak") as executor:
        print(f"sandbox: {executor.level}")
        for run in executor.run([Job(program, inputs)])[0]:
            text = show(run.value) if run.kind == "ok" else run.error
            print(f"{run.kind:8} {text}  ({run.cpu_seconds:.3f} s)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        memory, parent, without, preload = sys.argv[2:]
        names = (tuple(filter(None, text.split(","))) for text in (without, preload))
        _worker_main(int(memory), int(parent), *names)
    else:
        _main(sys.argv[1:])

"""Run model-written Python functions in throw-away processes and bring back plain data.

The trainer never compiles, evaluates or unpickles model text.  It starts worker processes by
exec (never fork: CUDA and threads) with a clean environment; each worker preloads a few standard
modules and then forks one child per (program, hash seed).  The child runs the program on all its
inputs, each in a fresh namespace, and writes tagged JSON to a pipe that the worker passes on
unread; the exit status and the CPU time come from the kernel.  Neither programs nor results stay
in the worker's memory, so a later child cannot find them there.

Stopped: endless loops, memory bombs, crashes, forged types (objects with an evil __eq__, int and
str subclasses), output floods, hash-order and call-order dependence, injection through argument
text, and any influence of one program on the next through Python state.  A child can forge only
the value of its own run, so never put an expected value into a Job.

Not stopped yet: there is no kernel confinement.  A program runs as the same user as the trainer
and can, with some effort, signal or trace its processes, fork, use the network, and (as root, who
may raise his own limits) open files.  Use a machine or container that holds nothing of value.
Runs of one child share imported modules; `seeds=2` exposes programs that depend on that.

Linux only.  As a command: python executor.py ARGUMENTS... < program.py
"""

import ast
import collections
import fcntl
import gc
import importlib
import json
import math
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import warnings
import weakref
from dataclasses import dataclass, field, replace

ALLOWED_IMPORTS = (
    "math", "re", "itertools", "functools", "collections", "string", "heapq", "bisect", "operator",
    "typing", "dataclasses", "copy", "json", "statistics", "fractions", "decimal", "cmath", "enum",
    "abc", "textwrap", "numbers",
)  # fmt: skip

MAX_TEXT = 20_000  # characters of a literal
MAX_PROGRAM = 100_000  # characters of source
MAX_VALUE = 64_000  # characters of one encoded value
MAX_RECORD = MAX_VALUE + 100  # bytes of one run's record
MAX_DEPTH = 50  # nested containers
MAX_INT_BITS = 14_000  # stays below CPython's 4,300-digit limit, so repr never fails
MAX_ERROR = 200  # characters of an error text


@dataclass(frozen=True)
class Job:
    """One program and the argument tuples (plain literal values) to call its `entry` with.

    With seeds=2 every input also runs under a second hash seed, in reversed order.
    """

    program: str
    inputs: tuple
    entry: str = "f"
    seeds: int = 1

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError("seeds must be at least 1")


@dataclass(frozen=True)
class Run:
    """The outcome of one call.  Values may be shared with the cache: do not change them.

    kind: ok | error (it raised) | timeout | memory | crash (no result) | unserializable | too_big
    | nondeterministic | refused (not run, or no such function) | infra (ours to blame, no verdict)
    """

    kind: str
    value: object = None
    error: str = ""
    cpu_seconds: float = 0.0


# ---- values: text, equality, wire format ---------------------------------------------------------

_SCALARS = (type(None), bool, int, float, str)
_NAMES = {"nan": math.nan, "inf": math.inf}  # and what repr writes for such complex numbers:
_NAMES |= {"nanj": complex(0, math.nan), "infj": complex(0, math.inf)}


def _literal(node, depth=MAX_DEPTH):
    match node:
        case ast.Constant(value=value) if type(value) in (*_SCALARS, complex, bytes):
            if type(value) is int and value.bit_length() > MAX_INT_BITS:
                raise ValueError("integer too long")
            return value
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.Call(
            func=ast.Name(id="float"), args=[ast.Constant(value="nan" | "inf" | "-inf" as text)],
            keywords=[],
        ):  # fmt: skip
            return float(text)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            value = _literal(operand, depth)
            if type(value) in (int, float, complex):
                return -value if isinstance(node.op, ast.USub) else value
            raise ValueError("sign before something that is not a number")
        case ast.BinOp(op=ast.Add() | ast.Sub(), left=left, right=ast.Constant() | ast.Name()):
            real, imaginary = _literal(left, depth), _literal(node.right, depth)
            if type(real) in (int, float) and type(imaginary) is complex:
                sign = -1 if isinstance(node.op, ast.Sub) else 1
                return complex(real, sign * imaginary.imag)
            raise ValueError("arithmetic is not a literal")
    if depth == 0:
        raise ValueError("nested too deeply")
    match node:
        case ast.List(elts=items):
            return [_literal(item, depth - 1) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_literal(item, depth - 1) for item in items)
        case ast.Set(elts=items):
            return {_literal(item, depth - 1) for item in items}
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_literal(k, depth - 1): _literal(v, depth - 1) for k, v in zip(keys, values)}
        case ast.Call(func=ast.Name(id="set"), args=[], keywords=[]):
            return set()
        case ast.Call(func=ast.Name(id="frozenset"), args=[], keywords=[]):
            return frozenset()
        case ast.Call(
            func=ast.Name(id="frozenset"), keywords=[],
            args=[ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items)],
        ):  # fmt: skip
            return frozenset(_literal(item, depth - 1) for item in items)
    raise ValueError(f"{type(node).__name__} is not a literal")


def _parse(text, before, after, read):
    """read(expression node) of `before + text + after`; every failure becomes ValueError."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"longer than {MAX_TEXT} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes are the model's business
            return read(ast.parse(before + text.strip() + after, mode="eval").body)
    except SyntaxError:
        raise ValueError("not a Python expression") from None
    except (RecursionError, MemoryError):
        raise ValueError("too complex") from None
    except (TypeError, OverflowError) as error:  # unhashable element, integer too big for a float
        raise ValueError(str(error)) from None


def parse_literal(text):
    """The value of a Python literal, without evaluating anything; ValueError says why not.

    Besides what ast.literal_eval takes: nan, inf, float('nan' | 'inf' | '-inf'), frozenset(...).
    """
    return _parse(text, "", "", _literal)


def _arguments(node):
    match node:
        case ast.Call(func=ast.Name(id="f"), args=args, keywords=[]):
            return tuple(_literal(arg) for arg in args)
    raise ValueError("not the positional arguments of one call")


def parse_arguments(text):
    """The tuple of values in `1, [2]` as in f(1, [2]); ValueError for anything else."""
    # The newline ends a trailing comment.  `1) or (True` parses, but not as one call of f.
    return _parse(text, "f(", "\n)", _arguments)


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


_TAGS = {list: "l", tuple: "t", set: "s", frozenset: "z", dict: "d"}


def _encode(value):
    """Type-tagged JSON text; TypeError: not plain data, ValueError: too big, deep or cyclic."""
    budget = MAX_VALUE

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
        if kind is dict:
            items = [part for pair in value.items() for part in pair]
        else:
            items = _in_order(value) if kind in (set, frozenset) else value
        return [_TAGS[kind], *[walk(item, depth - 1) for item in items]]

    text = json.dumps(walk(value, MAX_DEPTH), separators=(",", ":"))
    if len(text) > MAX_VALUE:
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
    if tag == "d":
        return dict(zip(items[::2], items[1::2], strict=True))
    return {"l": list, "t": tuple, "s": set, "z": frozenset}[tag](items)


# ---- the worker process --------------------------------------------------------------------------

_HEAD = struct.Struct("!4sII")  # trainer -> worker: magic, bytes of the job that follows, runs
_MAGIC = b"\0job"  # a job is JSON, which has no NUL: leftovers of a job never pass for a head
_FRAME = struct.Struct("!cId")  # worker -> trainer: tag, size or exit status, CPU seconds so far
_DATA, _ENDED, _LATE = b"D", b"E", b"L"
_RESULT_FD, _MAX_FDS = 3, 32
_PRELOAD = (*ALLOWED_IMPORTS, "ctypes", "unicodedata", "encodings.ascii", "encodings.latin_1")


def _die_with_parent(parent):
    """Ask for SIGKILL when the parent (its pid) goes, however it goes."""
    import ctypes  # only workers need it

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def confine(parent):
    """Give up what a worker does not need; runs once, before its first job.

    The one place for kernel confinement: what is given up here, every child inherits.  `parent`:
    pid to die with, or 0.
    """
    if parent:
        _die_with_parent(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_FDS, _MAX_FDS))


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


def _describe(error):
    """'TypeName: message'; the class is the program's own, so nothing about it is trusted."""
    try:
        name, text = type(error).__name__, str(error)
        return f"{name}: {text}"[:MAX_ERROR] if type(name) is type(text) is str else "exception"
    except BaseException:
        return "exception"


def _run_once(program, entry, arguments):
    """(kind, JSON of the encoded value or of an error text) of one call in a fresh namespace."""
    try:
        namespace = {"__name__": "program"}
        exec(compile(program, "<program>", "exec", dont_inherit=True), namespace)
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


def _child(jobs, result, size, runs, worker, cpu_seconds, memory_mb):
    _die_with_parent(worker)
    os.setpgid(0, 0)  # lets the worker kill what the program may fork
    program, entry, inputs = json.loads(_read_exactly(jobs, size))
    os.dup2(result, _RESULT_FD)
    os.closerange(_RESULT_FD + 1, _MAX_FDS)
    seconds = math.ceil(cpu_seconds * runs) + 1  # backstop for a program that disarms the timer
    memory = memory_mb << 20
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # does not bind root
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # nothing more can be opened
    for position, arguments in enumerate(inputs):
        # The default action of SIGPROF ends the process: no `except` in the program sees it.
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        kind, payload = _run_once(program, entry, arguments)
        record = f'[{position}, "{kind}", {payload}]'.encode()
        _write_all(_RESULT_FD, struct.pack("!I", len(record)) + record)
    os._exit(0)


def _supervise(jobs, out, size, runs, cpu_seconds, memory_mb):
    """Fork a child for the job waiting in `jobs`, pass its bytes on unread, report its end."""
    worker = os.getpid()
    source, result = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _child(jobs, result, size, runs, worker, cpu_seconds, memory_mb)
        finally:
            os._exit(1)
    os.close(result)
    exited = os.pidfd_open(pid)  # a descendant may keep the pipe open, so its end says nothing
    poller = select.poll()
    poller.register(source, select.POLLIN)
    poller.register(exited, select.POLLIN)
    poller.register(jobs, 0)  # reports only a hang-up: the trainer is gone
    wall, resets, cpu, tag, done = 2 + 6 * cpu_seconds, runs, 0.0, _ENDED, False
    deadline = time.monotonic() + wall
    while not done:
        patience = None if tag == _LATE else max(0, deadline - time.monotonic()) * 1000
        ready = dict(poller.poll(patience))
        if jobs in ready:
            os._exit(0)
        done = exited in ready
        waiting = _waiting_bytes(source)
        if waiting:
            try:
                cpu = time.clock_gettime(~pid << 3 | 2)  # the CPU clock of process `pid`
            except OSError:
                pass  # it has just ended
            os.write(out, _FRAME.pack(_DATA, waiting, cpu))
            while waiting:
                waiting -= os.splice(source, out, waiting)
            if resets:  # a run has finished, or a hostile program pretends so: not for ever
                resets -= 1
                deadline = time.monotonic() + wall
        elif source in ready:
            poller.unregister(source)  # closed by a child that goes on without it
        if not done and tag != _LATE and time.monotonic() >= deadline:
            os.kill(pid, signal.SIGKILL)
            tag = _LATE
    try:
        os.killpg(pid, signal.SIGKILL)  # before the wait, while the number is still taken
    except ProcessLookupError:
        pass  # it ended before setpgid
    _, status, usage = os.wait4(pid, 0)
    os.close(source)
    os.close(exited)
    os.write(out, _FRAME.pack(tag, status, usage.ru_utime + usage.ru_stime))


def _worker_main(cpu_seconds, memory_mb, parent):
    for name in _PRELOAD:
        importlib.import_module(name)
    warnings.simplefilter("ignore")
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGPROF, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    jobs, out = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    confine(parent)
    gc.collect()
    gc.freeze()  # keeps collections in the children from touching, and so copying, every page
    while head := _read_exactly(jobs, _HEAD.size):
        magic, size, runs = _HEAD.unpack(head)
        if magic != _MAGIC:
            break  # a child died before it had read its job; a fresh worker is simplest
        _supervise(jobs, out, size, runs, cpu_seconds, memory_mb)


# ---- the trainer's side --------------------------------------------------------------------------


class _Lost(Exception):
    """The worker died, stopped answering, or sent nonsense."""


@dataclass
class _Group:
    """Equal jobs of one batch, run once for all of them."""

    key: tuple
    job: Job
    inputs: tuple  # JSON text of each argument list; None where refused
    indices: list
    tasks: list = field(default_factory=list)  # one per hash seed
    runs: list = None  # the result, once known


@dataclass
class _Task:
    """One job under one hash seed: the inputs (their indices) still to run, and what ran."""

    group: _Group
    hash_seed: int
    pending: list
    runs: dict
    losses: int = 0


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
    """A worker process with one hash seed, and the state of the job it is on."""

    def __init__(self, hash_seed, cpu_seconds, memory_mb):
        # Parent-death signals follow the thread that forked, so only the main thread's count;
        # otherwise (and also) a worker leaves when its job pipe hangs up.
        main = threading.current_thread() is threading.main_thread()
        arguments = ["--worker", str(cpu_seconds), str(memory_mb), str(os.getpid() if main else 0)]
        self.hash_seed, self.cpu_seconds = hash_seed, cpu_seconds
        self.process = subprocess.Popen(
            # Not -I: it would ignore PYTHONHASHSEED.
            [sys.executable, "-s", "-S", "-P", "-B", os.path.abspath(__file__), *arguments],
            env={"PYTHONHASHSEED": str(hash_seed), "LC_ALL": "C.UTF-8"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            bufsize=0, cwd="/", close_fds=True, start_new_session=True,
        )  # fmt: skip
        self.to, self.back = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.to, False)
        os.set_blocking(self.back, False)

    def start(self, task):
        """Send the task's pending inputs to a new child."""
        job = task.group.job
        inputs = ",".join(task.group.inputs[index] for index in task.pending)
        body = f"[{json.dumps(job.program)},{json.dumps(job.entry)},[{inputs}]]".encode()
        head = _HEAD.pack(_MAGIC, len(body), len(task.pending))
        self.unsent = memoryview(head + body)
        self.frames, self.records = bytearray(), bytearray()
        self.task, self.position, self.cpu, self.malformed = task, 0, 0.0, False
        self._extend()

    def _extend(self):
        self.deadline = time.monotonic() + 5 + 10 * self.cpu_seconds

    def send(self):
        try:
            self.unsent = self.unsent[os.write(self.to, self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            raise _Lost from None

    def receive(self):
        """Read what is there; true when the child has ended and its task is up to date."""
        data = os.read(self.back, 1 << 16)
        if not data:
            raise _Lost
        self.frames += data
        while len(self.frames) >= _FRAME.size:
            tag, number, cpu = _FRAME.unpack_from(self.frames)
            if tag in (_ENDED, _LATE):
                if self.unsent:
                    raise _Lost  # the child died while reading its job
                self._ended(number, tag == _LATE, cpu)
                return True
            end = _FRAME.size + number
            if tag != _DATA or number > 1 << 20:
                raise _Lost
            if len(self.frames) < end:
                break
            self.records += self.frames[_FRAME.size : end]
            del self.frames[:end]
            self._take_records(cpu)
        return False

    def _take_records(self, cpu):
        runs = []
        while not self.malformed and len(self.records) >= 4:
            end = 4 + int.from_bytes(self.records[:4], "big")
            if end > 4 + MAX_RECORD or len(runs) == len(self.task.pending):
                self.malformed = True
            elif len(self.records) < end:
                break
            elif run := _read_record(bytes(self.records[4:end]), self.position):
                runs.append(run)
                self.position += 1
                del self.records[:end]
            else:
                self.malformed = True
        if self.malformed:
            self.records.clear()
        for run in runs:
            index = self.task.pending.pop(0)
            self.task.runs[index] = replace(run, cpu_seconds=(cpu - self.cpu) / len(runs))
        if runs:
            self.cpu = cpu
            self._extend()

    def _ended(self, status, late, cpu):
        """The child is gone; if inputs are left, it took the first of them with it."""
        if not self.task.pending:
            return
        used = cpu - self.cpu
        starved = late and 0.1 * self.cpu_seconds < used < self.cpu_seconds
        if starved and not self.malformed:
            raise _Lost  # neither asleep nor over its limit: the machine was too busy
        code = os.waitstatus_to_exitcode(status)
        backstop = code == -signal.SIGKILL and used >= self.cpu_seconds  # the hard CPU limit
        if late or backstop or code in (-signal.SIGPROF, -signal.SIGXCPU):
            run = Run("timeout", error=f"over {self.cpu_seconds:g} s")
        elif self.malformed:
            run = Run("crash", error="malformed result")
        else:
            end = f"signal {-code}" if code < 0 else f"exit {code}"
            run = Run("crash", error=f"{end} without a result")
        self.task.runs[self.task.pending.pop(0)] = replace(run, cpu_seconds=used)

    def kill(self):
        self.process.kill()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def _kill_all(slots, owner):
    if os.getpid() == owner:  # a forked copy of the trainer must not end the trainer's workers
        for slot in slots:
            while slot:
                slot.popitem()[1].kill()


def _encode_arguments(arguments):
    """JSON text of the encoded arguments of one call, None if they cannot be sent."""
    try:
        text = "[" + ",".join(map(_encode, arguments)) + "]"
    except (TypeError, ValueError):
        return None
    return text if len(text) <= MAX_VALUE else None


def _merge(runs):
    """One Run out of the Runs of one input under several hash seeds."""
    first = runs[0]
    for run in runs:
        if run.kind == "infra":
            return run
    for run in runs[1:]:
        if run.kind != first.kind or run.kind == "ok" and not same_value(run.value, first.value):
            return Run("nondeterministic", error="differs between hash seeds or call orders")
    return first


class Executor:
    """Runs Jobs in `workers` worker slots; see the module docstring for what that stops.

    cpu_seconds and memory_mb (address space) limit every run.  One stream or run at a time: a
    second one, from another thread too, raises RuntimeError.  Up to `cached_jobs` results are kept.
    """

    def __init__(self, workers=2, cpu_seconds=1.0, memory_mb=512, cached_jobs=10_000):
        if workers < 1:
            raise ValueError("workers must be at least 1")
        self._limits = cpu_seconds, memory_mb
        self._cached_jobs = cached_jobs
        self._cache = collections.OrderedDict()
        self._lock = threading.Lock()
        self._slots = []  # per slot {hash seed: worker}; a slot runs one child at a time
        self._finalizer = weakref.finalize(self, _kill_all, self._slots, os.getpid())
        for _ in range(workers):
            self._slots.append({0: _Worker(0, *self._limits)})

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
        """Yield (index of the job, its list of Runs) as jobs finish."""
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("another stream of this executor is running")
        busy = {}  # slot number: worker
        try:
            yield from self._stream(list(jobs), busy)
        finally:
            for number in list(busy):  # not empty only if abandoned in the middle
                self._drop(number, busy)
            self._lock.release()

    def _stream(self, jobs, busy):
        queue, finished = self._plan(jobs)
        while True:
            for number in range(len(self._slots)):
                if queue and number not in busy:
                    self._start(number, queue.popleft(), busy)
            paused = time.monotonic()
            for group in finished:
                for index in group.indices:
                    yield index, list(group.runs)
            for worker in busy.values():  # the time the caller took does not count
                worker.deadline += time.monotonic() - paused
            if not busy:
                return
            finished = []
            for task in self._step(busy):
                if task.pending:
                    queue.appendleft(task)
                elif self._finish(task.group):
                    finished.append(task.group)

    def _plan(self, jobs):
        """The tasks to run, and the groups that need none."""
        groups, queue, finished = {}, collections.deque(), []
        for index, job in enumerate(jobs):
            inputs = tuple(map(_encode_arguments, job.inputs))
            key = job.program, job.entry, job.seeds, inputs
            groups.setdefault(key, _Group(key, job, inputs, [])).indices.append(index)
        for key, group in groups.items():
            if key in self._cache:
                self._cache.move_to_end(key)
                group.runs = self._cache[key]
                finished.append(group)
                continue
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
            if good:
                queue += group.tasks
            elif self._finish(group):
                finished.append(group)
        return queue, finished

    def _finish(self, group):
        """Merge and keep the group's Runs; false if some of its tasks have inputs left to run."""
        if any(task.pending for task in group.tasks):
            return False
        count = range(len(group.inputs))
        group.runs = [_merge([task.runs[index] for task in group.tasks]) for index in count]
        if all(run.kind != "infra" for run in group.runs):
            self._cache[group.key] = group.runs
            if len(self._cache) > self._cached_jobs:
                self._cache.popitem(last=False)
        return True

    def _start(self, number, task, busy):
        if not self._finalizer.alive:
            raise RuntimeError("the executor is closed")
        slot = self._slots[number]
        worker = slot.get(task.hash_seed)
        if worker and worker.process.poll() is not None:  # died while idle
            slot.pop(task.hash_seed).kill()
            worker = None
        if worker is None:
            worker = slot[task.hash_seed] = _Worker(task.hash_seed, *self._limits)
        busy[number] = worker
        worker.start(task)

    def _drop(self, number, busy):
        worker = busy.pop(number)
        worker.kill()
        self._slots[number].pop(worker.hash_seed, None)

    def _step(self, busy):
        """Wait for news of the busy workers; the tasks that left one, done or (if pending) not."""
        poller = select.poll()
        for worker in busy.values():
            poller.register(worker.back, select.POLLIN)
            if worker.unsent:
                poller.register(worker.to, select.POLLOUT)
        patience = min(worker.deadline for worker in busy.values()) - time.monotonic()
        ready = dict(poller.poll(math.ceil(max(0, patience) * 1000)))
        left = []
        for number, worker in list(busy.items()):
            task = worker.task
            try:
                if worker.to in ready:
                    worker.send()
                if worker.back in ready:
                    if worker.receive():
                        del busy[number]
                        left.append(task)
                elif time.monotonic() > worker.deadline:
                    raise _Lost
            except _Lost:
                self._drop(number, busy)
                task.losses += 1
                if task.losses > 1:
                    lost = Run("infra", error="the worker was lost twice")
                    task.runs |= dict.fromkeys(task.pending, lost)
                    task.pending.clear()
                left.append(task)
        return left


def _main(arguments):
    try:
        inputs = tuple(map(parse_arguments, arguments))
    except ValueError as error:
        sys.exit(f"arguments: {error}")
    program = sys.stdin.read()
    with Executor(workers=1) as executor:
        for run in executor.run([Job(program, inputs)])[0]:
            text = show(run.value) if run.kind == "ok" else run.error
            print(f"{run.kind:8} {text}  ({run.cpu_seconds:.3f} s)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _worker_main(float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        _main(sys.argv[1:])

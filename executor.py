"""Run model-written Python functions in throw-away processes and bring back plain data: the trainer's side.

The trainer never compiles, evaluates or unpickles model text.  It starts worker processes (sandbox/worker.py), which
give up nearly every right they have (sandbox/kernel.py) and fork one child per (program, hash seed); what a child
answers is tagged JSON (sandbox/values.py), read here as hostile bytes.

A child can forge only the value of its own call, so never put an expected value into a Job.  Calls of one child share
imported modules; more `seeds` expose programs that depend on that, on the order of hashes or calls, on addresses, on
where memory and stack end, or on time.  Limits are CPU time, so a busy machine changes no verdict, and wall time for a
program that sleeps.  `Executor.level` says what the kernel really keeps from programs here.

As a command: python executor.py ARGUMENTS... < program.py
"""
import collections
import json
import math
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from command import UserError, run
from sandbox import canary, host
from sandbox.canary import LAYERS, LEVELS
from sandbox.parsing import parse_arguments
from sandbox.values import (DATA, ENDED, ESCAPED, FRAME, HEAD, HELLO, LATE, MAGIC, MAX_ERROR, MAX_RECORD, MAX_VALUE,
                            SPENT, from_wire, is_name, printable, same_value, show, to_wire)

WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sandbox", "worker.py")
MAX_PROGRAM = 100_000  # characters of source
MAX_INPUT = 1 << 25    # of the encoded arguments of a job with limits of its own: a benchmark's; others have MAX_VALUE
MAX_CACHED = 20_000    # characters of program, inputs and results of a job that is worth keeping
START_SECONDS = 120    # for the imports of a worker: some take seconds of CPU time, and the machine may be busy
HASH_SEEDS = 12        # of an executor; each costs a process of 10 MB and 60 ms
AHEAD = 4              # jobs sent to a worker before the first has ended: it need not wait for the trainer
ALL_CALLS = 4          # times the CPU time of one call: what calls that belong together have, under all hash seeds
LONG_WAIT = 3.0        # seconds of one stream after which `Executor.tell` is told


class ExecutorError(UserError):
    """The executor cannot start; the text is one line that says why and what to do."""


@dataclass(frozen=True)
class Job:
    """One program and the argument tuples (plain literal values) to call its `entry` with.

    With `seeds` of 2 or more what gives a value or an exception also runs under other hash seeds, drawn for a program,
    in reversed order under every second one.  Calls that stand `together` are worth nothing apart: the first that gives
    no value ends the job, and the rest shares its outcome.  `limits`: CPU seconds of one call and of all together, in
    place of the executor's; the first call that ends the process, for instance by running out of them, then ends the
    job, and the rest is refused. A value that `show` writes in more than `most` characters is too_big, if not by a few.
    """
    program: str
    inputs: tuple[tuple, ...]
    entry: str = "f"
    seeds: int = 1
    limits: tuple[float, float] | None = None
    together: bool = False
    most: int = MAX_VALUE

    def __post_init__(self) -> None:
        if not 1 <= self.seeds <= HASH_SEEDS:
            raise ValueError(f"seeds must be at least 1 and at most {HASH_SEEDS}")


@dataclass(frozen=True)
class Outcome:
    """What became of one call.  Values may be shared with the cache: do not change them.

    kind: ok | error (it raised) | timeout | memory | crash (no result) | violation (tried what only an attack does) |
    unserializable | too_big | nondeterministic | refused (not run, or no such function) | infra (ours to blame, no
    verdict)
    """
    kind: str
    value: object = None
    error: str = ""
    cpu_seconds: float = 0.0

    @property
    def exception(self) -> str:
        """Of kind error: the name of the class that was raised, an identifier of at most 100 characters ("exception"
        where a class of the program's own has another sort of name); else "".  A program can make it up as it can make
        up a value, and like a value it must be the same under every hash seed."""
        return self.error.partition(":")[0] if self.kind == "error" else ""


# ----------------------------------------------------------------------------------------------------------------
# A job under way

@dataclass(eq=False)
class OpenJob:
    """Equal jobs in flight, run once for all of them."""
    key: tuple
    job: Job
    inputs: tuple[str | None, ...]  # JSON text of each argument list; None where refused
    indices: list[int]              # of the jobs
    assignments: list["Assignment"] = field(default_factory=list)  # one per hash seed
    records: dict[bytes, Outcome] = field(default_factory=dict)    # those that were read
    begun: bool = False             # the other seeds run too: they wait for the first one's outcomes
    ended: bool = False

    def is_worth(self, outcome: Outcome) -> bool:
        """Whether the input of this outcome has to run under a further hash seed."""
        return outcome.kind == "ok" or outcome.kind == "error" and not self.job.together


@dataclass(eq=False)
class Assignment:
    """One job under one hash seed: the inputs (their indices) still to run, and what became of the others."""
    open_job: OpenJob
    hash_seed: int  # its number
    pending: list[int]
    outcomes: dict[int, Outcome]
    losses: int = 0
    size: int = 0  # of its results, in bytes

    def note(self, outcome: Outcome) -> None:
        """Keep the Outcome of the first pending input, and of all that share it; in this order, lest an interrupt lose
        it."""
        self.outcomes[self.pending[0]] = outcome
        self.pending.pop(0)
        if self.open_job.job.together and outcome.kind != "ok":
            self.outcomes |= dict.fromkeys(self.pending, replace(outcome, cpu_seconds=0.0))
            self.pending.clear()


def encode_arguments(arguments: tuple, most: int) -> str | None:
    """JSON text of the encoded arguments of one call, None if they cannot be sent."""
    try:
        text = "[" + ",".join(to_wire(value, most) for value in arguments) + "]"
    except (TypeError, ValueError):
        return None
    return text if len(text) <= most else None


def read_record(data: bytes, position: int, most: int = MAX_VALUE) -> Outcome | None:
    """The Outcome in one record of a child; None unless it is exactly what a child should write."""
    try:
        if data.count(b",") > most + 2 * MAX_ERROR:
            return None
        claimed, kind, payload = json.loads(data)
        if claimed != position:
            return None
        if kind == "ok":
            return Outcome("ok", from_wire(payload))
        if kind == "error":
            name, colon, _ = payload.partition(":")
            return Outcome("error", error=payload[:MAX_ERROR]) if colon and is_name(name) else None
        if kind in ("memory", "unserializable", "too_big", "refused"):
            return Outcome(kind, error=str(payload)[:MAX_ERROR])
    except Exception:  # hostile bytes: whatever they provoke means the same
        pass
    return None


def merge(outcomes: list[Outcome]) -> Outcome:
    """One Outcome out of those of one input under several hash seeds.  Time says nothing of determinism."""
    first = outcomes[0]
    for kind in ("infra", "timeout"):
        for outcome in outcomes:
            if outcome.kind == kind:
                return outcome
    for outcome in outcomes[1:]:
        if (outcome.kind, outcome.exception) != (first.kind, first.exception) or \
                outcome.value is not first.value and not same_value(outcome.value, first.value):
            return Outcome("nondeterministic", error="it differs between processes or orders of calls")
    return first


# ----------------------------------------------------------------------------------------------------------------
# A worker process

class WorkerLost(Exception):
    """The worker died, stopped answering, or sent nonsense."""


class Worker:
    """A worker process with one hash seed, and the assignments it has been sent; the first is running."""

    def __init__(self, number: int, hash_seeds: list[int], cpu_seconds: float, memory_mb: int,
                 without: tuple[str, ...], preload: tuple[str, ...]):
        # Parent-death signals follow the thread that forked, so only the main thread's count; otherwise (and also) a
        # worker leaves when its job pipe hangs up.
        parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
        # Memory and stack end elsewhere under every hash seed: no value that survives may depend on where.
        memory_mb -= 7 * number * memory_mb // 512
        arguments = map(str, (memory_mb, 1000 + 13 * number, parent, ",".join(without), ",".join(preload)))
        environment = {"PYTHONHASHSEED": str(hash_seeds[number]), "LC_ALL": "C.UTF-8"}
        if preload:  # found where the trainer would find them
            environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        self.hash_seed, self.cpu_seconds = number, cpu_seconds
        self.process = subprocess.Popen(
            # Not -I: it would ignore PYTHONHASHSEED.
            [sys.executable, "-s", "-S", "-B", WORKER, *arguments], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            bufsize=0, cwd="/", close_fds=True, start_new_session=True)
        self.to, self.back = self.process.stdin.fileno(), self.process.stdout.fileno()
        for fd in (self.to, self.back, self.process.stderr.fileno()):
            os.set_blocking(fd, False)
        self.assignments: collections.deque[Assignment] = collections.deque()
        self.unsent, self.frames = memoryview(b""), bytearray()
        self.missing: dict[str, str] | None = None  # the layers; None until it has started
        self.new_child()

    def new_child(self) -> None:
        self.records, self.position, self.cpu, self.malformed = bytearray(), 0, 0.0, False
        self.extend()

    def limits(self, assignment: Assignment) -> tuple[float, float]:
        job = assignment.open_job.job
        together = ALL_CALLS * self.cpu_seconds / job.seeds if job.together else math.inf
        return job.limits or (self.cpu_seconds, together)

    def extend(self) -> None:
        seconds = self.limits(self.assignments[0])[0] if self.assignments else self.cpu_seconds
        patience = 5 if self.missing is not None else START_SECONDS
        self.deadline = time.monotonic() + patience + 30 * seconds

    def push(self, assignment: Assignment) -> None:
        """Send the assignment's pending inputs; only when all that was sent before has left."""
        job = assignment.open_job.job
        inputs = ",".join(assignment.open_job.inputs[index] for index in assignment.pending)
        facts = json.dumps([job.program, job.entry, job.together, job.most])
        body = f"{facts[:-1]},[{inputs}]]".encode()
        head = HEAD.pack(MAGIC, len(body), len(assignment.pending), *self.limits(assignment))
        self.unsent = memoryview(head + body)
        self.assignments.append(assignment)
        if len(self.assignments) == 1:
            self.new_child()
        self.send()

    def send(self) -> None:
        try:
            self.unsent = self.unsent[os.write(self.to, self.unsent):]
        except BlockingIOError:
            pass
        except OSError:  # it has died: `receive` will find the end of its output
            self.unsent = memoryview(b"")

    def receive(self) -> tuple[list[Assignment], bool]:
        """Read what is there: (the assignments whose child has ended, done or (if pending) not; whether the worker is
        lost)."""
        ended: list[Assignment] = []
        try:
            data = os.read(self.back, 1 << 16)
            if not data:
                return ended, True
            self.frames += data
            self.take_frames(ended)
        except BlockingIOError:
            pass
        except (WorkerLost, ValueError):  # ValueError: no JSON, or no exit status, so not our worker
            return ended, True
        return ended, False

    def take_frames(self, ended: list[Assignment]) -> None:
        while len(self.frames) >= FRAME.size:
            tag, number, cpu = FRAME.unpack_from(self.frames)
            if tag in (ENDED, SPENT, LATE) and self.assignments:
                if self.unsent and len(self.assignments) == 1:
                    raise WorkerLost  # the child died while reading its job
                self.child_ended(tag, number, cpu)
                ended.append(self.assignments.popleft())
                del self.frames[:FRAME.size]
                self.new_child()
                continue
            end = FRAME.size + number
            if tag not in (HELLO, DATA) or number > 1 << 20:
                raise WorkerLost
            if len(self.frames) < end:
                break
            content = self.frames[FRAME.size:end]
            del self.frames[:end]
            if tag == HELLO:
                self.missing = json.loads(content)
            elif self.assignments:
                self.records += content
                self.take_records(cpu)
                self.extend()  # the worker bounds how often bytes buy time

    def take_records(self, cpu: float) -> None:
        assignment, outcomes = self.assignments[0], []
        job = assignment.open_job.job
        longest = min(MAX_RECORD, ESCAPED * (job.most + MAX_ERROR))
        while not self.malformed and len(self.records) >= 4:
            end = 4 + int.from_bytes(self.records[:4], "big")
            if end > 4 + longest or len(outcomes) == len(assignment.pending):
                self.malformed = True
            elif len(self.records) < end:
                break
            elif outcome := self.read(bytes(self.records[4:end]), assignment.open_job):
                outcomes.append(outcome)
                assignment.size += end
                self.position += 1
                del self.records[:end]
            else:
                self.malformed = True
        if self.malformed:
            self.records.clear()
        for outcome in outcomes:
            if assignment.pending:  # else one before it has ended the job
                assignment.note(replace(outcome, cpu_seconds=(cpu - self.cpu) / len(outcomes)))
        if outcomes:
            self.cpu = cpu

    def read(self, data: bytes, open_job: OpenJob) -> Outcome | None:
        """`read_record`, once for records that are alike up to their position, as under two hash seeds they should."""
        rest = data.removeprefix(b"[%d," % self.position)
        outcome = open_job.records.get(rest) or read_record(data, self.position, open_job.job.most)
        if outcome and len(rest) < len(data):
            open_job.records[rest] = outcome
        return outcome

    def child_ended(self, tag: bytes, status: int, cpu: float) -> None:
        """The child is gone; if inputs are left, it took the first of them with it."""
        assignment = self.assignments[0]
        used = max(0.0, cpu - self.cpu)  # two clocks that differ by some µs
        if not assignment.pending:
            return
        code = os.waitstatus_to_exitcode(status)
        shot = tag == ENDED and code == -signal.SIGKILL and "seccomp" not in self.missing
        if shot and not self.malformed:
            raise WorkerLost  # under seccomp it cannot do that to itself: the machine had no memory left
        if tag != ENDED:
            what = "of CPU time" if tag == SPENT else "asleep"
            outcome = Outcome("timeout", error=f"over {self.limits(assignment)[0]:g} s {what}")
        elif self.malformed:
            outcome = Outcome("crash", error="malformed result")
        elif code == -signal.SIGSYS:
            outcome = Outcome("violation", error="a system call that only an attack makes")
        else:
            end = f"signal {-code}" if code < 0 else f"exit {code}"
            outcome = Outcome("crash", error=f"{end} without a result")
        assignment.note(replace(outcome, cpu_seconds=used))
        while assignment.pending and assignment.open_job.job.limits:
            assignment.note(Outcome("refused", error="an earlier call has ended the process"))

    def last_words(self) -> str:
        """What a dying worker wrote to its stderr; it is ours, no program can reach it."""
        try:
            return (os.read(self.process.stderr.fileno(), 10_000) or b"").decode(errors="replace")
        except BlockingIOError:
            return ""

    def kill(self) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()
        self.process.wait()


def kill_all(slots: list[dict[int, Worker]], owner: int) -> None:
    if os.getpid() == owner:  # a forked copy of the trainer must not end the trainer's workers
        for slot in slots:
            while slot:
                slot.popitem()[1].kill()


# ----------------------------------------------------------------------------------------------------------------
# The executor

class Executor:
    """Runs Jobs in `workers` worker slots, one program at a time in each.

    cpu_seconds and memory_mb (address space) limit every call; pool_mb all programs together (if not given, half of the
    memory that this process may use): fewer slots are used where they would exceed it.  `require` is the least `level`
    to start with, else ExecutorError; `without` leaves out layers of sandbox/kernel.py, for tests and measurements.  Up
    to `cached_jobs` results are kept.  `preload` names modules that programs may import beyond the usual ones; they are
    trusted, and imported before a worker gives up its rights.  Only one thread may use an executor at a time.  `tell`
    is called about every second of a long wait with a line on what is waited for, and with "" at its end.

    The hash seeds are drawn from `seed`.  Every job runs under the first of them, which every slot has a worker for;
    the others, one slot each, are for jobs of more `seeds`, which draw theirs from `seed` and their program: the same
    in every run, whatever the order of jobs, so that verdicts are the same, too.
    """

    def __init__(self, workers: int = 2, cpu_seconds: float = 1.0, memory_mb: int = 512, require: str = "kernel",
                 cached_jobs: int = 10_000, pool_mb: int | None = None, without: Iterable[str] = (),
                 preload: Iterable[str] = (), seed: int = 0):
        if workers < 1 or cpu_seconds <= 0 or memory_mb < 64:
            raise ValueError("an executor needs a worker, CPU time, and 64 MB a program")
        if require not in LEVELS or not set(without) <= set(LAYERS):
            raise ValueError(f"require is one of {LEVELS}, without some of {LAYERS}")
        if sys.platform != "linux":
            raise ExecutorError(f"programs run only on Linux, in whose kernel the sandbox is; this is {sys.platform}."
                                " Use a container or a virtual machine")
        if pool_mb is None:
            pool_mb = host.memory()[0] >> 21
        self.seed, hash_seeds = seed, random.Random(f"hash seeds of {seed}").sample(range(1, 2**32), HASH_SEEDS)
        self.options = hash_seeds, cpu_seconds, memory_mb, tuple(without), tuple(preload)
        self.cached_jobs = cached_jobs
        self.cache: collections.OrderedDict[tuple, list[Outcome]] = collections.OrderedDict()
        self.lock = threading.Lock()
        # To send, by hash seed.
        self.queues: dict[int, collections.deque[Assignment]] = collections.defaultdict(collections.deque)
        self.busy: dict[int, Worker] = {}  # slot number: the worker that runs
        self.complaint, self.level = "", None
        self.tell: Callable[[str], None] = lambda line: None
        self.slots: list[dict[int, Worker]] = []  # per slot {hash seed: worker}; one of them runs at a time
        self.finalizer = weakref.finalize(self, kill_all, self.slots, os.getpid())
        for _ in range(max(1, min(workers, pool_mb // memory_mb))):
            self.slots.append({0: Worker(0, *self.options)})
        try:
            self.find_level(require)
        except BaseException:
            self.close()
            raise

    def find_level(self, require: str) -> None:
        """Set `level` to what a canary, run like any program, shows the sandbox to be."""
        first = self.slots[0][0]
        ((tried,),) = self.run([Job(canary.CANARY, ((),))])
        self.cache.clear()
        if tried.kind != "ok" or first.missing is None:
            said = self.complaint.strip().split("\n")[-1] or tried.error
            raise ExecutorError(f"no worker process of the executor starts here: {said}")
        self.leaks, self.level = tried.value, canary.level_of(tried.value)
        if LEVELS.index(self.level) < LEVELS.index(require):
            reasons = "; ".join(f"{name}: {why}" for name, why in first.missing.items())
            raise ExecutorError(
                f"the sandbox reaches only level {self.level!r} here, and {require!r} is required: programs can"
                f" {', '.join(self.leaks)} ({reasons or 'no layer is missing'}). Use Linux with seccomp (a default"
                f" Docker container has it), or accept the risk with --require {self.level}")

    def close(self) -> None:
        """End all workers; idempotent.  Also done at garbage collection and interpreter exit."""
        self.finalizer()

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def run(self, jobs: Iterable[Job]) -> list[list[Outcome]]:
        """The Outcomes (one per input) of every job, in the order of the jobs."""
        jobs = list(jobs)
        results: list[list[Outcome]] = [[]] * len(jobs)
        for index, outcomes in self.stream(jobs):
            results[index] = outcomes
        return results

    def stream(self, jobs: Iterable[Job]) -> Iterator[tuple[int, list[Outcome]]]:
        """Yield (index of the job, its Outcomes) as jobs finish; one stream at a time."""
        if not self.finalizer.alive:
            raise RuntimeError("the executor is closed")
        if not self.lock.acquire(blocking=False):
            raise RuntimeError("this executor is in use, by another thread or an open stream")
        try:
            open_jobs: dict[tuple, OpenJob] = {}
            done: list[tuple[OpenJob, list[Outcome]]] = []
            for index, job in enumerate(jobs):
                open_job = self.open(job)
                open_jobs.setdefault(open_job.key, open_job).indices.append(index)
            for open_job in open_jobs.values():
                self.plan(open_job, done)
            left, begun = len(open_jobs), time.monotonic()
            told = begun + LONG_WAIT - 1
            while left:
                if not done:
                    self.feed()
                    self.step(done)
                asked = time.monotonic()
                if asked - told > 1:
                    told = asked
                    self.tell(f"waiting for {left:,} programs, {asked - begun:.0f} s so far")
                for open_job, outcomes in done:
                    left -= 1
                    yield from ((index, list(outcomes)) for index in open_job.indices)
                done.clear()
                for running in self.busy.values():  # the time the caller took does not count
                    running.deadline += time.monotonic() - asked
        finally:
            self.tell("")
            while self.busy:  # interrupted or abandoned, perhaps in the middle of a message: start afresh
                self.drop(next(iter(self.busy)))
            self.queues.clear()
            self.lock.release()

    def open(self, job: Job) -> OpenJob:
        most = MAX_INPUT if job.limits else MAX_VALUE
        inputs = tuple(encode_arguments(arguments, most) for arguments in job.inputs)
        key = job.program, job.entry, job.seeds, job.limits, job.together, job.most, inputs
        return OpenJob(key, job, inputs, [])

    def plan(self, open_job: OpenJob, done: list) -> None:
        """Queue the first assignment of an open job, or finish it where there is nothing to run."""
        good, refused = [], {}
        for index, encoded in enumerate(open_job.inputs):
            if len(open_job.job.program) > MAX_PROGRAM:
                refused[index] = Outcome("refused", error="program too long")
            elif encoded is None:
                refused[index] = Outcome("refused", error="input too big or not plain data")
            else:
                good.append(index)
        for place, seed in enumerate(self.seeds_of(open_job.job)):
            pending = good[::-1] if place % 2 else good[:]
            open_job.assignments.append(Assignment(open_job, seed, pending, dict(refused)))
        if open_job.key in self.cache:
            self.cache.move_to_end(open_job.key)
            done.append((open_job, self.cache[open_job.key]))
        elif good:
            self.queues[0].append(open_job.assignments[0])
        else:
            self.finish(open_job, done)

    def plan_others(self, open_job: OpenJob) -> None:
        """Queue the other assignments, with what the first one has left to ask: where it failed, nothing."""
        first, *others = open_job.assignments
        open_job.begun = True
        worth = {index for index, outcome in first.outcomes.items() if open_job.is_worth(outcome)}
        if open_job.job.together and len(worth) < len(first.outcomes):
            worth = set()
        for assignment in others:
            assignment.outcomes = {index: outcome for index, outcome in first.outcomes.items() if index not in worth}
            assignment.pending = [index for index in assignment.pending if index in worth]
            if assignment.pending:
                self.queues[assignment.hash_seed].append(assignment)

    def seeds_of(self, job: Job) -> list[int]:
        """The numbers of the hash seeds that a job runs under."""
        if job.seeds == 1:
            return [0]
        draw = random.Random(f"{self.seed} {ascii(job.program)}")
        return [0, *draw.sample(range(1, HASH_SEEDS), job.seeds - 1)]

    def finish(self, open_job: OpenJob, done: list) -> None:
        """Merge and keep the open job's Outcomes, if all of its assignments are done."""
        if not open_job.begun and not open_job.assignments[0].pending:
            self.plan_others(open_job)
        if any(assignment.pending for assignment in open_job.assignments) or open_job.ended:
            return  # the latter: all results were in before the last child had ended
        open_job.ended = True
        outcomes: list[Outcome] = []
        for index in range(len(open_job.inputs)):
            failed = open_job.job.together and outcomes and outcomes[-1].kind != "ok"
            outcomes.append(replace(outcomes[-1], cpu_seconds=0.0) if failed else
                            merge([assignment.outcomes[index] for assignment in open_job.assignments]))
        done.append((open_job, outcomes))
        size = len(open_job.job.program) + sum(len(text or "") for text in open_job.inputs)
        size += sum(assignment.size for assignment in open_job.assignments)
        if size <= MAX_CACHED and all(outcome.kind != "infra" for outcome in outcomes):
            self.cache[open_job.key] = outcomes
            if len(self.cache) > self.cached_jobs:
                self.cache.popitem(last=False)

    def feed(self) -> None:
        """Send queued assignments, to every slot its first before any gets a second."""
        for ahead in range(AHEAD):
            for number in range(len(self.slots)):
                running = self.busy.get(number)
                if ahead and not running or running and (len(running.assignments) != ahead or running.unsent):
                    continue
                seed = running.hash_seed if running else self.next_seed(number)
                if queue := self.queues[seed]:
                    self.send(number, queue.popleft())

    def next_seed(self, number: int) -> int:
        """Which hash seed's assignments an idle slot takes: first of those that no other slot has."""
        own = range(number or len(self.slots), HASH_SEEDS, len(self.slots))
        longest = max(own, key=lambda seed: len(self.queues[seed]), default=0)
        return longest if self.queues[longest] else 0

    def send(self, number: int, assignment: Assignment) -> None:
        slot = self.slots[number]
        target = slot.get(assignment.hash_seed)
        if target and not target.assignments and target.process.poll() is not None:  # died while idle
            slot.pop(assignment.hash_seed).kill()
            target = None
        if target is None:
            target = slot[assignment.hash_seed] = Worker(assignment.hash_seed, *self.options)
        self.busy[number] = target
        target.push(assignment)  # where it is lost, `step` learns so from its pipe

    def drop(self, number: int) -> Worker:
        dropped = self.busy.pop(number)
        dropped.kill()
        self.slots[number].pop(dropped.hash_seed, None)
        return dropped

    def replace_lost(self, number: int, done: list) -> None:
        """Drop the slot's worker and queue its assignments again; the first is to blame."""
        words = self.busy[number].last_words()
        if words and not self.complaint:  # once: the next ones will say the same
            self.complaint = words
            if self.level:
                print(printable(f"executor: a worker failed and is replaced:\n{words}"), file=sys.stderr)
        assignments = self.drop(number).assignments
        if assignments and assignments[0].pending:
            head = assignments[0]
            head.losses += 1
            while head.losses > 1 and head.pending:
                head.note(Outcome("infra", error="the worker was lost twice"))
        for assignment in reversed(assignments):
            self.take_back(assignment, done)

    def take_back(self, assignment: Assignment, done: list) -> None:
        """An assignment that no worker has any more: queue what is left of it, or finish its job."""
        if assignment.pending:
            self.queues[assignment.hash_seed].appendleft(assignment)
        else:
            self.finish(assignment.open_job, done)

    def step(self, done: list) -> None:
        """Wait for news of the busy workers and take it; finished jobs go to `done`."""
        poller = select.poll()
        for running in self.busy.values():
            poller.register(running.back, select.POLLIN)
            if running.unsent:
                poller.register(running.to, select.POLLOUT)
        patience = min(running.deadline for running in self.busy.values()) - time.monotonic()
        ready = dict(poller.poll(math.ceil(min(max(0, patience), 1) * 1000)))  # a second, to tell of the wait
        for number, running in list(self.busy.items()):
            ended, lost = [], time.monotonic() > running.deadline
            if running.to in ready:
                running.send()
            if running.back in ready:
                ended, lost = running.receive()
            for assignment in ended:
                self.take_back(assignment, done)
            if lost:
                self.replace_lost(number, done)
            elif not running.assignments:
                del self.busy[number]


def main(argv: list[str]) -> None:
    if {"-h", "--help"} & set(argv):
        print("usage: python executor.py ARGUMENTS ... < program.py\n\nRuns the program's f once for each ARGUMENTS,"
              " such as \"[1, 2], 'a'\", in the sandbox.")
        return
    if not argv:
        raise UserError("give the arguments of a call of f, such as \"[1, 2], 'a'\"; '' if it takes none")
    calls = []
    for text in argv:
        try:
            calls.append(parse_arguments(text))
        except ValueError as error:
            raise UserError(f"{text!r}: not the arguments of a call of f ({error})") from error
    program = sys.stdin.buffer.read().decode(errors="replace")
    with Executor(workers=1, require="weak") as executor:
        print(f"sandbox: {executor.level}")
        for outcome in executor.run([Job(program, tuple(calls))])[0]:
            text = show(outcome.value) if outcome.kind == "ok" else outcome.error
            text = printable(text).translate({10: " ", 9: " "})  # a line a call, whatever its error holds
            print(f"{outcome.kind:8} {text}  ({outcome.cpu_seconds:.3f} s)")


if __name__ == "__main__":
    sys.exit(run("executor.py", main, sys.argv[1:]))

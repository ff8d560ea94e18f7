"""The world outside the sandbox, watched while hostile programs run in it for real: World, and what goes wrong there.

As a command (no pytest; this is how the tests become another user): python tests/sandbox_world.py battery|layers
"""
import contextlib
import ctypes
import json
import os
import re
import resource
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from executor import Executor, Job
from hostile_programs import CPU, HOSTILE, LEAKED, MEMORY, NEXT, PROBES, SLEEPERS, body
from sandbox import kernel

NEEDLE = re.compile(r"needle-\w+-[0-9a-f]{32}")  # the form of every planted secret
LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
CATCHABLE = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGALRM, signal.SIGWINCH,
             signal.SIGCONT, signal.SIGURG]
VICTIM = """
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # pending ones show in its status
print(flush=True)
time.sleep(3600)
"""
SET_SUBREAPER, GET_SUBREAPER = 36, 37


def status(pid: int | str) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def descendants(pid: int) -> set[int]:
    """All processes below `pid`; orphans too, since the world makes the trainer a subreaper."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry)] = int(status(entry)[1])
    below = {pid}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return below - {pid}


def fingerprint(pid: int) -> dict:
    """What signals, limits, scheduling or tracing would change about a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    lines = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    watched = "TracerPid Uid Gid SigPnd ShdPnd SigBlk SigIgn Umask Seccomp"
    return {
        "status": [lines.get(name) for name in watched.split()],
        "stopped": lines["State"][0] in "TtZX",
        "limits": [resource.prlimit(pid, what) for what in LIMITS],
        "nice": os.getpriority(os.PRIO_PROCESS, pid),
        "affinity": os.sched_getaffinity(pid),
        "policy": os.sched_getscheduler(pid),
        "oom": Path(f"/proc/{pid}/oom_score_adj").read_text(),
    }


class World:
    """A folder, sockets, a victim process, planted secrets and the trainer itself, all watched.

    Everything is open to everybody as far as permissions go, so only the sandbox is in the way.
    """

    def __enter__(self) -> "World":
        self.stack = contextlib.ExitStack()
        self.secret = {kind: f"needle-{kind}-{secrets.token_hex(16)}"
                       for kind in ("file", "environment", "program", "argument")}
        self.stack.enter_context(mock.patch.dict(os.environ, {"PLANTED": self.secret["environment"]}))
        self.make_folder()
        abstract = f"world-{secrets.token_hex(8)}"
        self.listen(abstract)
        self.prepare_trainer()
        self.strangers = descendants(os.getpid())
        self.victim = subprocess.Popen([sys.executable, "-c", VICTIM], stdout=subprocess.PIPE)
        self.stack.callback(self.victim.communicate)
        self.stack.callback(self.victim.kill)
        os.sched_setaffinity(self.victim.pid, {min(os.sched_getaffinity(0))})  # so that "affinity" has something to do
        self.victim.stdout.readline()
        self.knowledge = {
            "folder": str(self.folder), "file": str(self.folder / "file"), "abstract": abstract,
            "tcp": self.sockets["tcp"].getsockname()[1], "udp": self.sockets["udp"].getsockname()[1],
            "victim": self.victim.pid, "trainer": os.getpid(), "worker": 0, "key": secrets.randbelow(1 << 30) + 1,
        }
        return self

    def make_folder(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="world-"))
        self.stack.callback(shutil.rmtree, self.folder)
        self.folder.chmod(0o777)
        file = self.folder / "file"
        file.write_text(self.secret["file"])
        file.chmod(0o666)
        os.utime(file, (0, 10**9))  # so long ago that even one reading shows in its access time

    def listen(self, abstract: str) -> None:
        self.sockets = {
            "tcp": socket.create_server(("127.0.0.1", 0)), "udp": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            "abstract": socket.socket(socket.AF_UNIX), "path": socket.socket(socket.AF_UNIX),
        }
        self.sockets["udp"].bind(("127.0.0.1", 0))
        self.sockets["abstract"].bind("\0" + abstract)
        self.sockets["path"].bind(str(self.folder / "socket"))
        (self.folder / "socket").chmod(0o777)
        for name, listener in self.sockets.items():
            self.stack.callback(listener.close)
            if name != "udp":
                listener.listen()

    def prepare_trainer(self) -> None:
        """Orphans of its children come to it, and signals to it are counted."""
        libc, before = ctypes.CDLL(None), ctypes.c_int()
        libc.prctl(GET_SUBREAPER, ctypes.byref(before), 0, 0, 0)
        libc.prctl(SET_SUBREAPER, 1, 0, 0, 0)
        self.stack.callback(libc.prctl, SET_SUBREAPER, before.value, 0, 0, 0)
        self.signals = []
        for number in CATCHABLE:
            old = signal.signal(number, lambda number, _: self.signals.append(number))
            self.stack.callback(signal.signal, number, old)

    def __exit__(self, *exception) -> None:
        self.stack.close()

    def watch(self, ex: Executor) -> None:
        """Remember how everything is, the workers of `ex` included."""
        self.workers = [worker.process.pid for slot in ex.slots for worker in slot.values()]
        self.knowledge["worker"] = self.workers[0]
        self.signals.clear()
        self.before = self.look()

    def look(self) -> dict:
        files = {}
        for path in (self.folder, *sorted(self.folder.rglob("*"))):
            s = path.lstat()
            files[str(path)] = (s.st_mode, s.st_uid, s.st_gid, s.st_size, s.st_nlink, s.st_mtime_ns, s.st_ctime_ns,
                                path.name == "file" and s.st_atime_ns)
        key = str(self.knowledge["key"])
        ipc = [line for kind in ("shm", "sem", "msg") if os.path.exists(f"/proc/sysvipc/{kind}")
               for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()
               if line.split()[0] == key]
        seen = {
            "files": files,
            "connections": select.select(list(self.sockets.values()), [], [], 0)[0],
            "signals": list(self.signals),
            "processes": descendants(os.getpid()) - self.strangers,
            "System V objects": ipc,
            "environment": dict(os.environ),
        }
        for pid in (os.getpid(), self.victim.pid, *self.workers):
            try:
                seen[f"process {pid}"] = fingerprint(pid)
            except OSError as error:
                seen[f"process {pid}"] = repr(error)
        return seen

    def changes(self) -> list[str]:
        """What is different since `watch`, in words; none is what every test wants."""
        after = self.look()
        return [f"{what}: {self.before[what]} became {after[what]}"
                for what in after if after[what] != self.before[what]]


def attack(ex: Executor, world: World, name: str) -> list[str]:
    """Run one hostile program; what is wrong about its end, the world or the next program."""
    world.watch(ex)
    text, kinds = HOSTILE[name]
    started = time.monotonic()
    ((outcome,),) = ex.run([Job(text, ((world.knowledge,),))])
    wrong = [] if outcome.kind in kinds else [f"ended as {outcome}, not as {' or '.join(sorted(kinds))}"]
    if NEEDLE.search(repr(outcome)) or LEAKED in repr(outcome):
        wrong.append(f"leaked {outcome}")
    if name.startswith(("call ", "socket ")) and kinds == {"error"} and "Errno 1]" not in outcome.error:
        wrong.append(f"not refused by the filter: {outcome}")
    if outcome.cpu_seconds > CPU + 0.5:
        wrong.append(f"used {outcome.cpu_seconds} s of CPU time")
    if time.monotonic() - started > 60:  # not a measurement, it may be a busy machine
        wrong.append("took more than a minute")
    wrong += world.changes()
    if probe(ex) != world.baseline:
        wrong.append("the next program sees its traces")
    return wrong


def probe(ex: Executor) -> tuple:
    ((outcome,),) = ex.run([Job(NEXT, (([3, 1, 2],),))])
    assert outcome.kind == "ok", outcome
    return outcome.value


def sleep_in_turns(world: World) -> list[str]:
    """The sleepers, side by side; what is wrong."""
    with Executor(len(SLEEPERS), CPU, 64, pool_mb=1 << 20, cached_jobs=0) as ex:
        ex.run([Job(f"def f(): return {name!r}", ((),)) for name in SLEEPERS])  # all workers are up
        world.watch(ex)
        results = ex.run([Job(text, ((world.knowledge,),)) for text in SLEEPERS.values()])
        wrong = [f"{name}: {outcome}" for name, (outcome,) in zip(SLEEPERS, results)
                 if outcome.kind != "timeout" or outcome.cpu_seconds > CPU]
        return wrong + world.changes()


@contextlib.contextmanager
def battlefield() -> Iterator[tuple[Executor, World]]:
    """A world, and an executor in which an earlier program has held secrets."""
    with World() as world, Executor(1, CPU, MEMORY, cached_jobs=0) as ex:
        planted = world.secret["program"], world.secret["argument"]
        text = f"K = {planted[0]!r}\nimport math; math.kept = [K]\ndef f(x): return K, x, [K + x]"
        fail = text.replace("return", "raise ValueError")
        results = ex.run([Job(program, ((planted[1],),)) for program in (text, fail)])
        assert [outcome.kind for (outcome,) in results] == ["ok", "error"]
        world.baseline = probe(ex)
        yield ex, world


def battery() -> dict[str, list[str]]:
    """{name: what is wrong}, for every program where something is."""
    with battlefield() as (ex, world):
        wrong = {name: attack(ex, world, name) for name in HOSTILE}
        wrong["sleepers"] = sleep_in_turns(world)
        wrong["file"] = [] if (world.folder / "file").read_text() == world.secret["file"] else ["!"]
    return {name: texts for name, texts in wrong.items() if texts}


def layers() -> dict[str, tuple[str, list[str], dict[str, str]]]:
    """{the layer switched off, "" for none: (level, probes that got through, missing layers)}."""
    results = {}
    with World() as world:
        for layer in ("", *kernel.LAYERS):
            without = (layer,) if layer else ()
            with Executor(1, CPU, MEMORY, "weak", 0, without=without) as ex:
                (worker,) = ex.slots[0].values()
                world.watch(ex)
                through = []
                for name, text in PROBES.items():
                    (world.folder / "spare").touch()
                    ((outcome,),) = ex.run([Job(body(text), ((world.knowledge,),))])
                    if outcome.kind not in ("error", "violation", "memory"):
                        through.append(name)
                    shutil.rmtree(world.folder / "new", ignore_errors=True)
                results[layer] = ex.level, through, worker.missing
    return results


if __name__ == "__main__":
    print(json.dumps({"battery": battery, "layers": layers}[sys.argv[1]]()))

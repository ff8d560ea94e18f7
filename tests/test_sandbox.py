"""Hostile programs, run for real, with their effects looked for from outside, as root and as an ordinary user."""
import contextlib
import ctypes
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import executor
from executor import Executor, ExecutorError, Job
from hostile_programs import CPU, HOSTILE, HUNTS, MEMORY, NUMBERS, SEEK, body
from sandbox import kernel
from sandbox_world import World, attack, battlefield, layers, sleep_in_turns


def why_not() -> str | None:
    """Why the sandbox cannot be tested here; None if it can."""
    try:
        with Executor(1, require="weak") as ex:
            return None if ex.level == "kernel" else f"the sandbox is only {ex.level} here"
    except ExecutorError as error:
        return str(error)


WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
ROOT = os.geteuid() == 0
NOBODY = 65534


@pytest.fixture(scope="module")
def field():
    with battlefield() as (ex, world):
        yield ex, world
        assert (world.folder / "file").read_text() == world.secret["file"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_program(field, name):
    assert attack(*field, name) == []


def test_sleepers(field):
    assert sleep_in_turns(field[1]) == []


def test_the_hunts_find_what_is_there(field):
    needle = "needle-own-" + "5" * 32
    for name, text in HUNTS.items():
        ((outcome,),) = field[0].run([Job(SEEK + body(text), (({"own": needle},),))])
        assert outcome.kind == "ok" and outcome.value == [needle.encode()], (name, outcome)


def test_no_other_call_reaches_the_kernel(field):
    """Every number, with zeros for arguments: all but these are refused, or are the end."""
    harmless = {
        "brk", "munmap", "mremap", "madvise", "exit", "exit_group", "rt_sigreturn", "sched_yield",
        "restart_syscall", "getrandom", "clock_gettime", "gettimeofday", "time", "nanosleep",
        "clock_nanosleep", "getpid", "gettid", "mmap", "mprotect", "write", "futex",
    }
    numbers = "[ctypes.c_long(n) for n in [w] + [0] * 6]"
    text = body(f"return libc.syscall(*{numbers}), ctypes.get_errno()")
    (outcomes,) = field[0].run([Job(text, tuple((number,) for number in range(500)))])
    refused = ((-1, 1), (-1, 38))  # EPERM, ENOSYS
    reached = {number for number, outcome in enumerate(outcomes)
               if outcome.kind != "violation" and outcome.value not in refused}
    assert {outcome.kind for outcome in outcomes} <= {"ok", "crash", "violation"}
    allowed = {NUMBERS[name] for name in harmless if name in NUMBERS}
    if platform.machine() == "x86_64":
        allowed |= {335, 336}  # uretprobe, uprobe: harmless, and exempt from filters by design
    assert reached <= allowed


def test_the_world_notices():
    """Without any layer the same programs do have their effects, and these are seen."""
    effects = {
        "write a file": "files", "new file": "files", "mode": "files", "tcp": "connections",
        "read a secret file": "files", "udp": "connections", "unix path": "connections",
        "unix abstract": "connections", "kill the trainer": "signals", "nice": "process",
        "call tkill": "process", "affinity": "process", "limit the victim": "process",
        "limit the worker": "process", "shell": "files", "call shmget": "System V",
        "fork that leaves the session": "processes",
    }
    unseen = []
    for name, expected in effects.items():
        with World() as world, Executor(1, CPU, MEMORY, "weak", without=kernel.LAYERS) as ex:
            assert ex.level == "weak"
            world.watch(ex)
            ((outcome,),) = ex.run([Job(HOSTILE[name][0], ((world.knowledge,),))])
            changes = world.changes()
            if not any(change.startswith(expected) for change in changes):
                unseen.append((name, outcome, changes))
            for pid in world.look()["processes"] - set(world.workers) - {world.victim.pid}:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            if name == "call shmget":
                libc = ctypes.CDLL(None)
                libc.shmctl(libc.shmget(world.knowledge["key"], 4096, 0), 0, None)
    assert unseen == []


# What sandbox/kernel.py says of each layer.
ITSELF = {"see metadata", "executable memory", "user namespace", "System V memory", "keys",
          "signal the worker", "limit the worker", "schedule the worker"}
SAME_USER = {"limit the victim", "schedule the victim", "change metadata", "touch"}


def check_layers(measured: dict, root: bool) -> None:
    level, through, missing = measured[""]
    assert (level, through) == ("kernel", [])
    if missing:
        pytest.skip(f"layers cannot be told apart where some are missing: {missing}")
    seccomp = ITSELF if root else ITSELF | SAME_USER
    # Neither seccomp nor Landlock takes a filter from a process that could still gain rights.
    privileges = seccomp | {"make a folder", "remove a file", "exec"}
    if not root:
        privileges = privileges | {"signal the victim"}
    expected = {
        "limits": ("kernel", {"memory"}), "uid": ("kernel", set()), "landlock": ("kernel", set()),
        "seccomp": ("partial", seccomp), "privileges": ("partial", privileges),
    }
    assert {name: (measured[name][0], set(measured[name][1])) for name in kernel.LAYERS} == expected


def test_one_layer_less():
    check_layers(layers(), ROOT)


@pytest.fixture(scope="module")
def as_nobody():
    """as_nobody(what) -> what this file says as a command, run by an ordinary user."""
    if not ROOT:
        pytest.skip("the tests above ran as an ordinary user")
    user = dict(user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", stdin=subprocess.DEVNULL)
    needs = "import ctypes, json, sys; sys.exit(sys.version_info < (3, 11))"
    for python in (sys.executable, shutil.which("python3", path=os.defpath)):
        with contextlib.suppress(OSError, TypeError):
            if subprocess.run([python, "-c", needs], capture_output=True, **user).returncode == 0:
                break
    else:
        pytest.skip("no Python 3.11 that an ordinary user can run")
    root = Path(executor.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        for name in ("executor.py", "command.py", "sandbox/*.py", "tests/sandbox_world.py", "tests/hostile_programs.py"):
            for path in root.glob(name):
                copy = Path(folder) / path.relative_to(root)
                copy.parent.mkdir(exist_ok=True)
                copy.parent.chmod(0o755)
                shutil.copyfile(path, copy)
                copy.chmod(0o644)

        def command(what):
            done = subprocess.run(
                [python, "-B", f"{folder}/tests/sandbox_world.py", what],
                capture_output=True, text=True, env={"PATH": os.defpath}, **user,
            )
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        yield command


def test_hostile_programs_as_an_ordinary_user(as_nobody):
    assert as_nobody("battery") == {}


def test_one_layer_less_as_an_ordinary_user(as_nobody):
    check_layers(as_nobody("layers"), root=False)

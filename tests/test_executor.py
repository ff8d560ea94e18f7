"""The executor through real workers: kinds of outcome, isolation, forged answers, and what it does when workers die."""
import ast
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import executor
from executor import Executor, Job, Outcome


@pytest.fixture(scope="module")
def ex():
    with Executor(workers=2, cpu_seconds=0.4, memory_mb=256, require="weak") as it:
        yield it


@pytest.fixture(scope="module")
def open_ex():
    """Without seccomp: what the protocol must hold against by itself."""
    options = dict(cpu_seconds=0.4, memory_mb=256, require="weak", without=("seccomp",))
    with Executor(workers=2, **options) as it:
        yield it


def call(ex, program, *args, seeds=1):
    ((outcome,),) = ex.run([Job(program, (args,), seeds=seeds)])
    return outcome


def alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def gone(pids):
    """Whether all the processes end; generous, since a kill takes effect when the kernel likes."""
    deadline = time.monotonic() + 20
    while any(map(alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def children(parent):
    below = []
    for entry in Path("/proc").iterdir():
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue
        if stat.rpartition(")")[2].split()[1] == str(parent):
            below.append(int(entry.name))
    return below


def workers(ex):
    return [worker.process.pid for slot in ex.slots for worker in slot.values()]


# ----------------------------------------------------------------------------------------------------------------
# Kinds

LOOP = """
def f():
    while True:
        try:
            while True: pass
        except BaseException: pass
"""
SUBCLASS = "class S({0}): pass\ndef f(): return S()"
CASES = {
    "ok": ("def f(): return 7", "ok"),
    "globals": ("import math\nK = 2\ndef g(): return K\ndef f(): return g() + math.pi", "ok"),
    "dataclass": ("from dataclasses import *\n@dataclass\nclass A:\n x: int = 1\n"
                  "def f(): return A().x", "ok"),
    "raises": ("def f(): raise ValueError('no')", "error"),
    "syntax": ("def f(:", "error"),
    "nul": ("\0", "error"),
    "surrogate": ("'\ud800'", "error"),
    "recursion": ("def f(): return f()", "error"),
    "exit": ("import sys\ndef f(): sys.exit(0)", "error"),
    "interrupt": ("def f(): raise KeyboardInterrupt", "error"),
    "wrong arguments": ("def f(x): return x", "error"),
    "no open": ("def f(): return open('/etc/passwd').read()", "error"),
    "bad str": ("class E(Exception):\n def __str__(s): raise E\ndef f(): raise E", "error"),
    "bad name": ("class M(type):\n __name__ = 3\nclass E(Exception, metaclass=M): pass\n"
                 "def f(): raise E", "error"),
    "loop": (LOOP, "timeout"),
    "module loop": ("while True: pass", "timeout"),
    "one long operation": ("def f(): return 10**10**8 % 7", "timeout"),
    "looping __str__": ("class E(Exception):\n def __str__(s):\n  while 1: pass\n"
                        "def f(): raise E", "timeout"),
    "disarmed": ("import signal\ndef f():\n signal.setitimer(signal.ITIMER_PROF, 0)\n"
                 " signal.signal(signal.SIGXCPU, signal.SIG_IGN)\n while 1: pass", "timeout"),
    "stopped": ("import os\ndef f(): os.kill(os.getpid(), 19)", "timeout"),
    "closed pipe": ("import os\ndef f():\n os.close(3)\n while 1: pass", "timeout"),
    "busy, then asleep": ("import time\ndef f():\n while time.process_time() < 0.12: pass\n"
                          " time.sleep(60)", "timeout"),
    "dribble": ("import os, time\ndef f():\n while 1:\n  os.write(3, b'\\0')\n"
                "  time.sleep(0.001)", "timeout"),
    "memory": ("def f(): return [0] * 10**9", "memory"),
    "memory in steps": ("def f():\n x = []\n while True: x.append(bytes(10**7))", "memory"),
    "_exit": ("import os\ndef f(): os._exit(0)", "crash"),
    "_exit at import": ("import os; os._exit(0)\ndef f(): return 1", "crash"),
    "segfault": ("import ctypes\ndef f(): ctypes.string_at(0)", "crash"),
    "killed": ("import os\ndef f(): os.kill(os.getpid(), 9)", "crash"),
    "object": ("class A:\n def __eq__(s, o): return True\n def __repr__(s): return '7'\n"
               "def f(): return A()", "unserializable"),
    "nested object": ("def f(): return [{1: (object(),)}]", "unserializable"),
    "int subclass": (SUBCLASS.format("int"), "unserializable"),
    "str subclass": (SUBCLASS.format("str"), "unserializable"),
    "list subclass": (SUBCLASS.format("list"), "unserializable"),
    "function": ("def f(): return f", "unserializable"),
    "generator": ("def f(): yield 1", "unserializable"),
    "ellipsis": ("def f(): return ...", "unserializable"),
    "long text": ("def f(): return 'a' * 10**7", "too_big"),
    "long list": ("def f(): return list(range(10**5))", "too_big"),
    "big set": ("def f(): return set(range(10**5))", "too_big"),
    "escapes": ("def f(): return chr(233) * 20_000", "too_big"),
    "long integer": ("def f(): return 1 << 20_000", "too_big"),
    "deep": ("def f():\n x = []\n for _ in range(10**4): x = [x]\n return x", "too_big"),
    "cycle": ("def f():\n x = []\n x.append(x)\n return x", "too_big"),
    "wide": ("def f():\n x = []\n for _ in range(45): x = [x, x]\n return x", "too_big"),
    "missing": ("g = 1", "refused"),
    "not callable": ("f = 1", "refused"),
    "long program": ("#" * 100_001, "refused"),
}


# Under seccomp these only get an exception for an answer.
TAMED = dict.fromkeys(["disarmed", "stopped", "closed pipe", "killed"], "error")


@pytest.mark.parametrize("without", [(), ("seccomp",)])
def test_kinds(without):
    # Many workers, since some programs are asleep until the wall limit.
    with Executor(workers=8, cpu_seconds=0.25, memory_mb=256, require="weak", without=without) as ex:
        outcomes = dict(zip(CASES, ex.run([Job(program, ((),)) for program, _ in CASES.values()])))
    expected = {name: kind for name, (_, kind) in CASES.items()}
    expected |= TAMED if ex.level == "kernel" else {}
    assert {name: outcome.kind for name, (outcome,) in outcomes.items()} == expected, outcomes
    assert all((outcome.value is not None) == (outcome.kind == "ok") for (outcome,) in outcomes.values())
    assert outcomes["raises"][0].error == "ValueError: no"
    assert outcomes["exit"][0].error == "SystemExit: 0"
    assert outcomes["missing"][0].error == "no f"
    assert outcomes["globals"][0].value == 2 + math.pi
    assert outcomes["loop"][0].cpu_seconds > 0


def test_error_text_is_bounded(ex):
    outcome = call(ex, "def f(): raise ValueError('x' * 10**6)")
    assert outcome.kind == "error" and len(outcome.error) == 200


RAISES = {  # what a program does: what Outcome.exception says
    "raise KeyError": "KeyError", "raise KeyError()": "KeyError", "raise ValueError('')": "ValueError",
    "raise ValueError('KeyError: 1')": "ValueError", "raise ValueError(': :\\n\\0\\ud800')": "ValueError",
    "raise ValueError('x' * 10**6)": "ValueError", "return 1 / 0": "ZeroDivisionError", "raise 3": "TypeError",
    "import sys; sys.exit()": "SystemExit", "f()": "RecursionError", "compile('(', '', 'exec')": "SyntaxError",
    "import json; json.loads('')": "JSONDecodeError", "raise ExceptionGroup('x', [KeyError()])": "ExceptionGroup",
    # A class of its own has the name that it gives itself ...
    "class Mine(Exception): pass\nraise Mine": "Mine", "raise type('Größe', (ValueError,), {})": "Größe",
    "class E(Exception):\n def __str__(s): raise KeyError\nraise E": "E",
    "S = type('S', (str,), {'__getitem__': lambda s, i: s, '__format__': None})\n"
    "class E(Exception): __str__ = lambda s: S()\nraise E": "E",
    "e = ValueError(); e.__class__ = KeyError\nraise e": "TypeError",
    # ... which its metaclass cannot change from call to call, ...
    "class M(type): __name__ = property(lambda s: 'KeyError')\nclass E(Exception, metaclass=M): pass\nraise E": "E",
    "class E(Exception): __name__ = __qualname__ = 'KeyError'\nraise E": "E",
    "class E(Exception): __class__ = KeyError\nraise E()": "E",
    # ... and none where that is no name.
    "raise type('KeyError: ', (Exception,), {})": "exception", "raise type('', (Exception,), {})": "exception",
    "raise type('a b', (Exception,), {})": "exception", "raise type('\\n', (Exception,), {})": "exception",
    "raise type('x' * 101, (Exception,), {})": "exception", "raise type('x' * 100, (Exception,), {})": "x" * 100,
    "raise type('x' * 10**6, (Exception,), {})": "exception", "raise type('\\u202eE', (Exception,), {})": "exception",
}


@pytest.mark.quick
def test_the_class_of_an_error_can_be_told(ex):
    programs = ["def f():\n" + textwrap.indent(text, " ") for text in RAISES]
    outcomes = [outcome for (outcome,) in ex.run([Job(program, ((),), seeds=2) for program in programs])]
    assert {outcome.kind for outcome in outcomes} == {"error"}
    assert dict(zip(RAISES, (outcome.exception for outcome in outcomes))) == RAISES
    assert all(outcome.error.startswith(outcome.exception + ": ") for outcome in outcomes)
    assert not Outcome("ok", 1).exception and not Outcome("timeout", error="over: 1").exception


@pytest.mark.quick
def test_a_class_that_depends_on_the_hash_seed_is_not_deterministic(ex):
    programs = {
        "def f(): raise (KeyError, ValueError, IndexError)[hash('a') % 3]('x')": "nondeterministic",
        "def f(): raise type('E%d' % id([]), (Exception,), {})": "nondeterministic",
        "def f(): raise KeyError(''.join({'a', 'b', 'c', 'd'}))": "error",  # only the message differs
        "class M(type): __name__ = property(lambda s: 'E%d' % id([]))\n"
        "class E(Exception, metaclass=M): pass\ndef f(): raise E": "error",
    }
    results = ex.run([Job(program, ((),), seeds=2) for program in programs])
    assert [outcome.kind for (outcome,) in results] == list(programs.values())
    some, other = Outcome("error", error="KeyError: 1"), Outcome("error", error="ValueError: 1")
    assert executor.merge([some, some]) == some and executor.merge([some, other]).kind == "nondeterministic"
    assert executor.merge([Outcome("timeout", error="a: 1"), Outcome("timeout", error="b: 1")]).kind == "timeout"


def test_bad_inputs_are_refused_alone(ex):
    outcomes = ex.run([Job("def f(x): return x", ((1,), (object(),), ("a" * 10**5,), (2,)))])[0]
    assert [outcome.kind for outcome in outcomes] == ["ok", "refused", "refused", "ok"]


def test_entry_and_no_inputs(ex):
    program = "def g(x): return x"
    assert ex.run([Job(program, ((3,),), entry="g"), Job(program, ())])[0][0].value == 3
    assert ex.run([Job(program, ())]) == [[]]
    with pytest.raises(ValueError):
        Job(program, (), seeds=0)


def test_compiler_bombs_stay_in_the_child(ex):
    nested = "[" * 25 + "0" + " for x in [0]]" * 25
    bombs = [nested, "(" * 10**4, "-" * 90_000 + "1", "x = " + "1+" * 40_000 + "1"]
    outcomes = ex.run([Job(bomb + "\ndef f(): return 1", ((),)) for bomb in bombs])
    assert {outcome.kind for (outcome,) in outcomes} <= {"ok", "error", "memory", "crash", "timeout"}
    assert call(ex, "def f(): return 'fine'").value == "fine"


# ----------------------------------------------------------------------------------------------------------------
# Isolation

PROBE = """
import sys, math, random, json
def f(x):
    return (len(x), sorted(x), sys.getrecursionlimit(), math.floor(2.5), json.dumps(x),
            sys.get_int_max_str_digits(), abs(-1), "planted" in sys.modules)
"""


@pytest.mark.parametrize(
    "poison",
    [
        "import builtins\nbuiltins.len = lambda x: 99",
        "import builtins\nbuiltins.sorted = builtins.abs = None",
        "import sys\nsys.setrecursionlimit(30)",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)",
        "import os\nos._exit(0)",
        "import math, json, sys\nmath.floor = json.dumps = None\nsys.modules['planted'] = 1",
        "import sys\nsys.set_int_max_str_digits(0)\nsys.stdout.close()",
        "import os\nos.close(3); os.close(1)",
        "import signal\nsignal.signal(signal.SIGPROF, signal.SIG_IGN)",
        "import sys\nsys.settrace(lambda *a: 1 / 0)",
        "import gc\n[o.clear() for o in gc.get_objects() if type(o) is dict and 'run_job' in o]",
    ],
)
def test_the_next_program_is_clean(poison):
    with Executor(workers=1, cpu_seconds=0.4, require="weak") as one:
        before = one.run([Job(PROBE, (([3, 1],),))])
        (worker,) = workers(one)
        one.run([Job(poison + "\nif 'f' not in globals():\n def f(x): return x", (([1],),))])
        after = one.run([Job(PROBE + "#", (([3, 1],),))])
        assert workers(one) == [worker]
    assert before[0][0].kind == "ok" and before[0][0].value == after[0][0].value


@pytest.mark.quick
def test_fresh_namespace_per_input(ex):
    program = "seen = []\ndef f(x):\n seen.append(x)\n x.append(0)\n return seen"
    outcomes = ex.run([Job(program, (([1],), ([1],), ([2],)), seeds=2)])[0]
    assert [outcome.value for outcome in outcomes] == [[[1, 0]], [[1, 0]], [[2, 0]]]


def test_one_bad_input_costs_only_itself(ex):
    program = """
import os
def f(x):
    if x == 1:
        while True: pass
    if x == 2: os._exit(0)
    if x == 3: raise KeyError(x)
    return x
"""
    outcomes = ex.run([Job(program, tuple((x,) for x in (0, 1, 2, 3, 4)), seeds=2)])[0]
    assert [outcome.kind for outcome in outcomes] == ["ok", "timeout", "crash", "error", "ok"]
    assert [outcomes[0].value, outcomes[4].value] == [0, 4]


@pytest.mark.quick
def test_nondeterminism(ex):
    programs = [
        "def f(s): return ''.join(set(s))",
        "def f(s): return hash('a')",
        "import random\ndef f(s): return random.random()",
        "def f(s): return id(object())",
        "import math\nmath.calls = getattr(math, 'calls', 0)\n"
        "def f(s):\n math.calls += 1\n return math.calls",
        "def f(s): return [1] if hash('a') % 2 else 1 / 0 if hash('b') else 0",
    ]
    jobs = [Job(program, (("abcdefgh",), ("ijk",)), seeds=2) for program in programs]
    kinds = [[outcome.kind for outcome in outcomes] for outcomes in ex.run(jobs)]
    assert kinds[:5] == [["nondeterministic"] * 2] * 5
    fixed = ["def f(s): return set(s)", "def f(s): return {c: 1 for c in set(s)}"]
    assert [call(ex, program, "abcdef", seeds=2).kind for program in fixed] == ["ok", "ok"]
    assert call(ex, "def f(s): return s[9]", "a", seeds=2).kind == "error"
    assert call(ex, programs[1], "a").kind == "ok"


def test_output_is_discarded(ex, capfd):
    outcome = call(ex, "import sys\ndef f():\n for i in range(10**5): print(i)\n"
                   " print('x', file=sys.stderr)\n return input() if 0 else 1")
    assert outcome.value == 1
    assert call(ex, "def f(): return input()").kind == "error"
    assert capfd.readouterr() == ("", "")


def test_clean_environment_and_descriptors(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    with Executor(workers=1, require="weak", without=("seccomp",)) as one:
        outcome = call(one, "import os, sys\ndef f(): return dict(os.environ), os.getcwd()")
        open_fds = call(one, """
import os
def f():
    found = []
    for fd in range(64):
        try: os.fstat(fd)
        except OSError: continue
        found.append(fd)
    return found
""").value
    environment, directory = outcome.value
    assert set(environment) <= {"PYTHONHASHSEED", "LC_ALL", "LC_CTYPE"} and directory == "/"
    assert open_fds == [0, 1, 2, 3]


# A program that writes to the result pipe forges its own value at most.
FORGE = """
import os, struct
def record(text):
    return struct.pack("!I", len(text)) + text
def f():
    os.write(3, {0})
    {1}
"""


@pytest.mark.parametrize(
    "data, then, kind",
    [
        ("record(b'[0,\"ok\",5]')", "os._exit(0)", "ok"),
        ("record(b'[1,\"ok\",5]')", "os._exit(0)", "crash"),
        ("record(b'[0,\"infra\",5]')", "os._exit(0)", "crash"),
        ("record(b'[0,\"ok\"]')", "return 1", "crash"),
        ("record(b'[0,\"ok\",[\"s\",[\"l\"]]]')", "return 1", "crash"),
        ("record(b'[0,\"ok\",[\"d\",1]]')", "return 1", "crash"),
        ("record(b'[0,\"ok\",{}]')", "return 1", "crash"),
        ("record(b'[0,\"ok\",[\"c\",\"1e999\",[]]]')", "return 1", "crash"),
        ("record(b'[0,\"ok\",' + b'9' * 4500 + b']')", "return 1", "crash"),
        ("record(b'[' * 60_000)", "return 1", "crash"),
        ("record(b'\\xff\\x00')", "return 1", "crash"),
        ("record(b'')", "return 1", "crash"),
        ("b'\\xff' * 1000", "return 1", "crash"),
        ("b'\\0\\0\\1\\0abc'", "os._exit(0)", "crash"),
        ("b'E' * 13", "return 1", "crash"),
        ("b''", "[os.write(3, b'x' * 4096) for _ in range(1000)]", "crash"),
    ],
)
def test_forged_records(ex, data, then, kind):
    outcome = call(ex, FORGE.replace("{0}", data).replace("{1}", then))
    assert outcome.kind == kind, outcome
    assert call(ex, "def f(): return 1") == call(ex, "def f(): return 1")


@pytest.mark.quick
def test_no_forged_record_raises():
    for data in (b"", b"null", b"[]", b"[0,0,0]", b'[0,"ok",["q"]]', b'[0,"ok",["i","zz"]]',
                 b'[0,"ok",["b",3]]', b'[0,[],1]', b'{"a":1,"b":2,"c":3}', b"\x80", b"[" * 10**5,
                 b'[0,"ok",[]]', b'[0,"ok",' + b'["l",' * 60 + b"1" + b"]" * 62):
        assert executor.read_record(data, 0) is None
    assert executor.read_record(b'[0,"error","KeyError: 1: 2"]', 0).exception == "KeyError"
    assert len(executor.read_record(b'[0,"error","E: ' + b"x" * 9000 + b'"]', 0).error) == executor.MAX_ERROR


@pytest.mark.parametrize("payload", [
    '[1]', '1', 'null', '""', '":"', '"E"', '"a b: c"', '" E: x"', '"E :x"', '"E\\n: x"', '"E\\ud800: x"', '"1E: x"',
    '"' + "E" * 101 + ': x"'])
def test_no_forged_error_has_a_name_that_is_none(payload):
    assert executor.read_record(f'[0,"error",{payload}]'.encode(), 0) is None


# ----------------------------------------------------------------------------------------------------------------
# The trainer's side

@pytest.mark.quick
def test_order_of_results(ex):
    jobs = [
        Job(f"def f():\n for _ in range({(9 - i) * 10**4}): pass\n return {i}", ((),))
        for i in range(10)
    ]
    assert [outcomes[0].value for outcomes in ex.run(jobs)] == list(range(10))
    assert sorted(index for index, _ in ex.stream(jobs)) == list(range(10))
    assert ex.run([]) == []


def test_duplicates_run_once_and_are_cached(ex):
    job = Job("import os, time\ndef f(x): return os.getpid(), time.time()", ((1,), (2,)))
    first, second = ex.run([job, job])
    assert first[0].kind == "ok" and first == second == ex.run([job])[0]
    one = Job(job.program, ((1,),))
    others = [Job(job.program, ((argument,),)) for argument in (True, 1.0, "1")]
    others.append(Job(job.program + "#", ((1,),)))
    values = {outcomes[0].value for outcomes in ex.run([one, *others])}
    assert len(values) == 5


def test_cache_is_bounded():
    with Executor(workers=1, cached_jobs=3, require="weak") as one:
        one.run([Job(f"def f(): return {i}", ((),)) for i in range(6)])
        assert len(one.cache) == 3


def test_a_killed_worker_is_replaced():
    program = """
import time
def f(x):
    while time.process_time() < 0.4: pass
    return x
"""
    with Executor(workers=1, cpu_seconds=2, require="weak") as one:
        (victim,) = workers(one)

        def kill_when_busy():
            deadline = time.monotonic() + 20
            while not children(victim) and time.monotonic() < deadline:
                time.sleep(0.001)
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill_when_busy)
        killer.start()
        outcomes = one.run([Job(program, ((1,), (2,)))])[0]
        killer.join()
        assert [outcome.value for outcome in outcomes] == [1, 2]
        assert gone([victim])
        (second,) = workers(one)
        assert second != victim
        os.kill(second, signal.SIGKILL)  # while idle
        assert call(one, "def f(): return 3").value == 3


def test_a_program_that_kills_workers_is_infra_and_not_cached(open_ex):
    ex = open_ex
    job = Job("import os\ndef f(x): os.kill(os.getppid(), 9)", ((1,), (2,)))
    fine = Job("def f(x): return x", ((5,),))
    outcomes = ex.run([job, fine])
    assert [outcome.kind for outcome in outcomes[0]] == ["infra", "infra"] and outcomes[1][0].value == 5
    assert all(job.program not in key for key in ex.cache)


def test_a_stopped_worker_meets_the_deadline(monkeypatch):
    with Executor(workers=1, cpu_seconds=1.0, require="weak") as one:
        (victim,) = workers(one)
        call(one, "def f(): return 0")

        def extend(worker):
            patience = 0.2 if worker.process.pid == victim else 60
            worker.deadline = time.monotonic() + patience

        monkeypatch.setattr(executor.Worker, "extend", extend)
        os.kill(victim, signal.SIGSTOP)
        assert call(one, "def f(): return 1").value == 1
        assert gone([victim])


def test_abandoned_stream_leaves_a_working_executor(ex):
    jobs = [Job(f"def f(): return {i} + 1000", ((),)) for i in range(20)]
    stream = ex.stream(jobs)
    next(stream)
    with pytest.raises(RuntimeError):  # one at a time
        ex.run(jobs)
    stream.close()
    next(ex.stream(jobs))  # dropped at once
    assert [outcomes[0].value for outcomes in ex.run(jobs)] == list(range(1000, 1020))
    assert not ex.busy and not ex.queues


def test_an_interrupt_in_the_middle_leaves_a_working_executor(ex, monkeypatch):
    jobs = [Job(f"def f(): return {i} + 3000", ((),), seeds=2) for i in range(10)]
    step, calls = executor.Executor.step, []

    def interrupted(self, seconds):
        step(self, seconds)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(executor.Executor, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ex.run(jobs)
    assert [outcomes[0].value for outcomes in ex.run(jobs)] == list(range(3000, 3010))
    assert len(calls) > 3


def test_two_threads_are_told_apart(ex):
    with ex.lock, pytest.raises(RuntimeError, match="another thread"):
        ex.run([Job("def f(): return 'two threads'", ((),))])
    assert call(ex, "def f(): return 'two threads'").value == "two threads"


def test_require(monkeypatch):
    with pytest.raises(ValueError):
        Executor(require="strong")
    with pytest.raises(ValueError):
        Executor(without=("walls",))
    with pytest.raises(executor.ExecutorError) as failed:
        Executor(workers=1, without=("seccomp",))
    text = str(failed.value)
    assert "'kernel' is required" in text and "seccomp: switched off" in text and "\n" not in text
    assert "see files" in text and "--require" in text
    monkeypatch.setattr(executor.canary, "CANARY", "import nothing_like_it")
    with pytest.raises(executor.ExecutorError, match="no worker process"):
        Executor(workers=1, require="weak")


@pytest.mark.quick
def test_elsewhere_than_on_linux_one_line_says_so(monkeypatch):
    monkeypatch.setattr(executor.sys, "platform", "darwin")
    with pytest.raises(executor.ExecutorError, match="only on Linux.*darwin") as failed:
        Executor(workers=1, require="weak")
    assert "\n" not in str(failed.value)


def test_the_pool_is_bounded():
    with Executor(workers=8, memory_mb=128, pool_mb=300, require="weak") as small:
        assert len(small.slots) == 2


def test_a_worker_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setattr(executor, "WORKER", str(Path(__file__).parent / "nothing.py"))
    with pytest.raises(executor.ExecutorError, match="nothing.py"):
        Executor(workers=1, require="weak")


def test_close_leaves_nothing():
    before = len(os.listdir("/proc/self/fd"))
    with Executor(workers=2, require="weak") as two:
        pids = workers(two)
        outcome = call(two, "import os\ndef f(): return os.getpid()", seeds=1)
        call(two, "def f(): return 1", seeds=2)
        pids += workers(two) + [outcome.value]
        assert set(workers(two)) <= set(children(os.getpid()))
    assert gone(pids) and not set(pids) & set(children(os.getpid()))
    assert len(os.listdir("/proc/self/fd")) == before
    two.close()
    with pytest.raises(RuntimeError):
        call(two, "def f(): return 2")
    dropped = Executor(workers=1, require="weak")
    pids = workers(dropped)
    del dropped
    assert gone(pids)


@pytest.mark.parametrize("where", ["run()", "threading.Thread(target=run).start()"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_orphans_when_the_trainer_dies(where, number):
    program = f"""
import sys, threading
sys.path.insert(0, {str(Path(executor.__file__).parent)!r})
from executor import Executor, Job
def run():
    ex = Executor(workers=1, cpu_seconds=60, require="weak")
    print(next(iter(ex.slots[0].values())).process.pid, flush=True)
    ex.run([Job("def f():\\n while 1: pass", ((),))])
{where}
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as trainer:
        worker = int(trainer.stdout.readline())
        deadline = time.monotonic() + 20
        while not (busy := children(worker)) and time.monotonic() < deadline:
            time.sleep(0.005)
        if number == signal.SIGINT and "Thread" in where:
            number = signal.SIGTERM  # an interrupt would wait for the thread
        trainer.send_signal(number)
    assert gone([worker, *busy])


def test_forked_trainer_copy_does_not_end_the_workers(ex):
    pid = os.fork()
    if pid == 0:
        ex.close()
        os._exit(0)
    os.waitpid(pid, 0)
    before = workers(ex)
    assert call(ex, "def f(): return 'still here'").value == "still here"
    assert workers(ex) == before


def test_command():
    program = "def f(a, b=2):\n return a / b"
    command = [sys.executable, executor.__file__, "1", "1, 0", "3, b'#' # x"]
    done = subprocess.run(command, input=program, capture_output=True, text=True, timeout=60)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0][0] == "sandbox:" and lines[0][1] in executor.LEVELS
    assert lines[1][:2] == ["ok", "0.5"] and [line[0] for line in lines[1:]] == ["ok", "error", "error"]
    assert "ZeroDivisionError: division by zero" in done.stdout and done.stderr == ""


@pytest.mark.quick
def test_only_the_standard_library_and_no_unsafe_loading():
    root = Path(executor.__file__).parent
    for path in (root / "executor.py", root / "command.py", *(root / "sandbox").glob("*.py")):
        tree = ast.parse(path.read_text())
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert imported <= {*sys.stdlib_module_names, "sandbox", "command"} and not imported & {"pickle", "marshal"}
        called = [node.func.id for node in ast.walk(tree)
                  if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        there = 1 if path.name == "worker.py" else 0  # in the child alone
        assert "eval" not in called and called.count("exec") == called.count("compile") == there, path


def test_preloaded_modules_have_their_full_names_and_nothing_has_two():
    modules = ("benchmarks.harness", "report.measure")
    program = ("import sys\nfrom report.measure import measure\n"
               "def f(names): return [name for name in names if name in sys.modules]")
    names = [*modules, "sandbox.parsing", "sandbox.values", "parsing", "values", "kernel", "worker", "executor"]
    with Executor(workers=1, require="weak", preload=modules) as one:
        assert call(one, program, names).value == names[:4]
        path = call(one, "import sys\ndef f(): return sys.path").value
        assert path[0] == str(Path(executor.__file__).parent) and not [folder for folder in path if "sandbox" in folder]


def test_outcome_defaults():
    assert Outcome("ok") == Outcome("ok", None, "", 0.0)


def test_values_that_share_hashes_are_too_big(ex):
    """They would cost the trainer, which compares them, seconds."""
    for made in ("{i * M: 0 for i in range(k)}", "[{i * M for i in range(k)}]"):
        program = f"M = 2**61 - 1\ndef f(k): return {made}"
        assert call(ex, program, 60).kind == "too_big" and call(ex, program, 50).kind == "ok"
    items = ",".join(f'["i","{hex(i * (2**61 - 1))}"]' for i in range(100, 200))
    for tag in "sz":
        assert executor.read_record(f'[0,"ok",["{tag}",{items}]]'.encode(), 0) is None


def test_a_flood_ends_the_child(ex):
    program = "import os\ndef f():\n while 1: os.write(3, b'x' * 65536)"
    assert call(ex, program).kind == "crash"


def test_large_results_are_not_kept():
    with Executor(workers=1, require="weak") as one:
        assert call(one, "def f(): return 'a' * 30_000").kind == "ok" and not one.cache
        assert call(one, "def f(): return 'a'").kind == "ok" and len(one.cache) == 1


def test_a_job_that_ended_before_its_worker_was_lost_is_not_forgotten():
    with Executor(workers=1, require="weak", cpu_seconds=1) as one:
        call(one, "def f(): return 0")
        (worker,) = workers(one)
        jobs = [Job("import time\ndef f():\n time.sleep(0.3)\n return 'first'", ((),)),
                Job("def f():\n while 1: pass", ((),))]

        def kill_the_second():
            seen, deadline = [], time.monotonic() + 20
            while len(seen) < 2 and time.monotonic() < deadline:
                seen += [child for child in children(worker) if child not in seen]
                time.sleep(0.005)
            os.kill(seen[-1], signal.SIGKILL)

        killer = threading.Thread(target=kill_the_second)
        killer.start()
        (first,), (second,) = one.run(jobs)
        killer.join()
        assert first.value == "first" and second.kind in ("timeout", "crash", "infra")


def test_a_cancelled_job_does_not_take_a_new_one_with_it(ex):
    jobs = [Job(f"def f(): return {i} + 7000", ((),), seeds=2) for i in range(30)]
    for taken in range(3):
        stream = ex.stream(jobs)
        for _ in range(taken):
            next(stream)
        stream.close()
        assert [outcomes[0].value for outcomes in ex.run(jobs[20:])] == list(range(7020, 7030))
        ex.cache.clear()


def test_bytes_buy_time_but_no_exemption():
    program = ("import time\nout = open(3, 'wb', 0, closefd=False)\ndef f(x):\n"
               " while 1:\n  out.write(b'\\0')\n  time.sleep(0.3)")
    with Executor(workers=1, cpu_seconds=0.1, require="weak") as one:
        outcomes = one.run([Job(program, ((1,), (2,)))])[0]
    assert {outcome.kind for outcome in outcomes} <= {"timeout", "crash", "error"}


def test_results_that_came_before_the_worker_was_lost_count():
    """A child that has answered but not ended, which a program can bring about by writing its own record."""
    program = ("import os\ndef f():\n os.write(3, b'\\0\\0\\0\\x0a[0,\"ok\",5]')\n"
               " while 1: pass")
    with Executor(workers=1, require="weak", cpu_seconds=5) as one:
        call(one, "def f(): return 0")
        (worker,) = workers(one)

        def kill_when_answered():
            deadline = time.monotonic() + 20
            while not (one.busy and one.slots[0][0].assignments) and time.monotonic() < deadline:
                time.sleep(0.001)
            while any(task.pending for task in one.slots[0][0].assignments) and time.monotonic() < deadline:
                time.sleep(0.001)
            os.kill(worker, signal.SIGKILL)

        killer = threading.Thread(target=kill_when_answered)
        killer.start()
        assert [outcome.value for outcome in one.run([Job(program, ((),))])[0]] == [5]
        killer.join()

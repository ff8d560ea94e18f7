import ast
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

import executor
from executor import Executor, Job, Run, parse_arguments, parse_literal, same_value, show

nan, inf = math.nan, math.inf


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
    ((run,),) = ex.run([Job(program, (args,), seeds=seeds)])
    return run


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
    found = []
    for entry in Path("/proc").iterdir():
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue
        if stat.rpartition(")")[2].split()[1] == str(parent):
            found.append(int(entry.name))
    return found


def workers(ex):
    return [worker.process.pid for slot in ex._slots for worker in slot.values()]


# ---- values --------------------------------------------------------------------------------------

VALUES = [
    None, True, False, 0, -1, 2**63, -(2**64), 10**4000, 0.1, -0.0, 1e300, 5e-324, nan, inf, -inf,
    1j, -1j, 1 + 2j, complex(nan, -inf), complex(-0.0, 1), complex(1, -0.0), complex(0, nan), "",
    "a'\"\\\n\0\ud800é\U0001f600", b"", b"\x00\xff'", [], [1, [2, [3]]], (), (1,), (1, (2,)),
    set(), {1, 2.5}, {"b", "a"}, {True, "x", None, (1, 2)}, frozenset(), frozenset({1}),
    {frozenset({frozenset()}), frozenset()}, {}, {1: {"a": [nan]}, (1, "b"): {2}}, {nan: nan},
    eval("[" * 50 + "]" * 50),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_values_round_trip(value, ex):
    again = parse_literal(show(value))
    assert type(again) is type(value) and same_value(again, value)
    assert show(again) == show(value)
    assert parse_arguments(f"{show(value)}, 1")[1:] == (1,)
    (run,) = ex.run([Job("def f(x): return x", ((value,),))])[0]
    assert run.kind == "ok" and type(run.value) is type(value)
    assert same_value(run.value, value) and show(run.value) == show(value)


def test_sign_of_zero_survives():
    assert math.copysign(1, parse_literal(show(-0.0))) == -1
    assert math.copysign(1, executor._decode(-0.0)) == -1


def test_show():
    assert show((1,)) == "(1,)"
    assert show({10, 9, 1}) == "{1, 9, 10}"
    assert show({"b": 1, "a": 2}) == "{'b': 1, 'a': 2}"
    assert show([nan, -inf]) == "[float('nan'), float('-inf')]"
    mixed = "show({'b', 'a', 1, None, (2, 'x'), frozenset({'q', 'p'}), b'z', 1.5})"
    program = f"from executor import show; print({mixed})"
    texts = {
        subprocess.check_output(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(executor.__file__).parent)},
        )
        for seed in "123"
    }
    assert len(texts) == 1
    for bad in (object(), [...], {1: int}, range(3), type("I", (int,), {})(3)):
        with pytest.raises(TypeError):
            show(bad)


@pytest.mark.parametrize(
    "text, value",
    [
        (" 1 ", 1), ("[1,\n 2]  # two", [1, 2]), ("-inf", -inf), ("float('-inf')", -inf),
        ("nan", nan), ("+1.5", 1.5), ("1-2j", 1 - 2j), ("'a' 'b'", "ab"), ("'\\d'", "\\d"),
        ("frozenset([1, 2])", frozenset({1, 2})), ("frozenset()", frozenset()),
        ("0x1F", 31), ("{1: 2,}", {1: 2}),
    ],
)  # fmt: skip
def test_parse_literal(text, value):
    assert same_value(parse_literal(text), value)


NOT_LITERALS = [
    "", "#", "...", "f()", "x", "1 + 2", "2**9", "-True", "-'a'", "[*[1]]", "{**{}}", "{[]}",
    "[i for i in []]", "f'{1}'", "set([1])", "frozenset('ab')", "float('1')", "float(x='nan')",
    "frozenset([1], [2])", "().__class__", "lambda: 1", "(x := 1)", "1 if 1 else 2", "1;2", "x = 1",
    "1\n2", "\0", "\ud800", "[" * 51 + "]" * 51, "[" * 9000, "-" * 19000 + "1", "1" + "+1j" * 6000,
    "1" * 5000, "0x" + "f" * 9000, "'" + "a" * 20_000 + "'", "__import__('os').system('false')",
    "a" + ".b" * 9000, "[x for x in " * 25 + "[]" + "]" * 25, "f" + "()" * 9000, "1j + 1",
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_LITERALS, ids=range(len(NOT_LITERALS)))
def test_not_literals(text):
    with pytest.raises(ValueError):
        parse_literal(text)


def test_parse_arguments():
    assert parse_arguments("") == parse_arguments(" \n") == parse_arguments("# none") == ()
    assert parse_arguments("1, [2], # comment") == (1, [2])
    assert parse_arguments("(1, 2)") == ((1, 2),)
    assert parse_arguments("'a)', \"f(\"") == ("a)", "f(")


ATTACKS = [
    "1) or (True", "1), f(2", "1)(2", "1).__class__(", "1) if 1 else f(2", "1) #", "1)\n#", "*[1]",
    "**{}", "x=1", "1 for x in [1]", "x := 1", "1); f(2", "1)\nf(2", "1) + f(2", "lambda: 1",
    "f(1)", "1)[0](", "1) and print(", "(1", "1, ,", ",", "'", "1 \\",
]  # fmt: skip


def test_parse_arguments_attacks():
    accepted = []
    for text in ATTACKS[:-1]:
        try:
            accepted.append((text, parse_arguments(text)))
        except ValueError:
            pass
    assert accepted == []
    assert parse_arguments(ATTACKS[-1]) == (1,)  # a mere line continuation


SAME = [
    (1, 1.0), (1, 1 + 0j), (0.0, -0.0), (nan, -nan), ([nan], [nan]), ({nan}, {float("nan")}),
    ({1, 2}, frozenset({2, 1.0})), ({1: "a", 2: "b"}, {2.0: "b", 1: "a"}),
    ({nan: 1}, {float("nan"): 1}), ({(1,): {3}}, {(1.0,): {3}}), (complex(nan, 1), complex(nan, 1)),
    (10**40, 10**40), ((), ()),
]  # fmt: skip
DIFFERENT = [
    (1, True), (0, False), (0.0, False), ([1], [True]), ({1: "a"}, {True: "a"}), ({1}, {True}),
    ({(0,)}, {(False,)}), ([1], (1,)), ([], ()), ([], {}), (set(), {}), ("a", b"a"), (None, False),
    ([1, 2], [2, 1]), ("1", 1), (2**53 + 1, float(2**53)), ({nan}, {nan, float("nan")}), (nan, inf),
    ({1: 2}, {(1, 2)}), ({1: [1]}, {1: [True]}), (1j, 1), ([[]], []), ("number", ("number",)),
]  # fmt: skip


def test_same_value():
    for a, b in SAME:
        assert same_value(a, b) and same_value(b, a), (a, b)
    for a, b in DIFFERENT:
        assert not same_value(a, b) and not same_value(b, a), (a, b)
    big = [{i: [i]} for i in range(20_000)]
    assert same_value(big, list(big)) and same_value(set(range(50_000)), set(range(50_000)))

    class Equal:
        __hash__ = None

        def __eq__(self, other):
            return True

    for bad in (Equal(), [Equal()], type("I", (int,), {})(1), ..., range(2), {1: object}):
        with pytest.raises(TypeError):
            same_value(bad, 1)


# ---- kinds ---------------------------------------------------------------------------------------

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
    "busy, then asleep": ("import time\ndef f():\n while time.process_time() < 0.2: pass\n"
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
}  # fmt: skip


# Under seccomp these only get an exception for an answer.
TAMED = dict.fromkeys(["disarmed", "stopped", "closed pipe", "killed"], "error")


@pytest.mark.parametrize("without", [(), ("seccomp",)])
def test_kinds(without):
    with Executor(workers=2, cpu_seconds=0.4, memory_mb=256, require="weak", without=without) as ex:
        runs = dict(zip(CASES, ex.run([Job(program, ((),)) for program, _ in CASES.values()])))
    expected = {name: kind for name, (_, kind) in CASES.items()}
    expected |= TAMED if ex.level == "kernel" else {}
    assert {name: run.kind for name, (run,) in runs.items()} == expected, runs
    assert all((run.value is not None) == (run.kind == "ok") for (run,) in runs.values())
    assert runs["raises"][0].error == "ValueError: no"
    assert runs["exit"][0].error == "SystemExit: 0"
    assert runs["missing"][0].error == "no f"
    assert runs["globals"][0].value == 2 + math.pi
    assert runs["loop"][0].cpu_seconds > 0


def test_error_text_is_bounded(ex):
    run = call(ex, "def f(): raise ValueError('x' * 10**6)")
    assert run.kind == "error" and len(run.error) == 200


def test_bad_inputs_are_refused_alone(ex):
    runs = ex.run([Job("def f(x): return x", ((1,), (object(),), ("a" * 10**5,), (2,)))])[0]
    assert [run.kind for run in runs] == ["ok", "refused", "refused", "ok"]


def test_entry_and_no_inputs(ex):
    program = "def g(x): return x"
    assert ex.run([Job(program, ((3,),), entry="g"), Job(program, ())])[0][0].value == 3
    assert ex.run([Job(program, ())]) == [[]]
    with pytest.raises(ValueError):
        Job(program, (), seeds=0)


def test_compiler_bombs_stay_in_the_child(ex):
    nested = "[" * 25 + "0" + " for x in [0]]" * 25
    bombs = [nested, "(" * 10**4, "-" * 90_000 + "1", "x = " + "1+" * 40_000 + "1"]
    runs = ex.run([Job(bomb + "\ndef f(): return 1", ((),)) for bomb in bombs])
    assert {run.kind for (run,) in runs} <= {"ok", "error", "memory", "crash", "timeout"}
    assert call(ex, "def f(): return 'fine'").value == "fine"


# ---- isolation -----------------------------------------------------------------------------------

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
        "import gc\n[o.clear() for o in gc.get_objects() if type(o) is dict and '_child' in o]",
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


def test_fresh_namespace_per_input(ex):
    program = "seen = []\ndef f(x):\n seen.append(x)\n x.append(0)\n return seen"
    runs = ex.run([Job(program, (([1],), ([1],), ([2],)), seeds=2)])[0]
    assert [run.value for run in runs] == [[[1, 0]], [[1, 0]], [[2, 0]]]


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
    runs = ex.run([Job(program, tuple((x,) for x in (0, 1, 2, 3, 4)), seeds=2)])[0]
    assert [run.kind for run in runs] == ["ok", "timeout", "crash", "error", "ok"]
    assert [runs[0].value, runs[4].value] == [0, 4]


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
    kinds = [[run.kind for run in runs] for runs in ex.run(jobs)]
    assert kinds[:5] == [["nondeterministic"] * 2] * 5
    fixed = ["def f(s): return set(s)", "def f(s): return {c: 1 for c in set(s)}"]
    assert [call(ex, program, "abcdef", seeds=2).kind for program in fixed] == ["ok", "ok"]
    assert call(ex, "def f(s): return s[9]", "a", seeds=2).kind == "error"
    assert call(ex, programs[1], "a").kind == "ok"


def test_output_is_discarded(ex, capfd):
    run = call(ex, "import sys\ndef f():\n for i in range(10**5): print(i)\n"
                   " print('x', file=sys.stderr)\n return input() if 0 else 1")  # fmt: skip
    assert run.value == 1
    assert call(ex, "def f(): return input()").kind == "error"
    assert capfd.readouterr() == ("", "")


def test_clean_environment_and_descriptors(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    with Executor(workers=1, require="weak", without=("seccomp",)) as one:
        run = call(one, "import os, sys\ndef f(): return dict(os.environ), os.getcwd()")
        open_fds = call(one, """
import os
def f():
    found = []
    for fd in range(64):
        try: os.fstat(fd)
        except OSError: continue
        found.append(fd)
    return found
""").value  # fmt: skip
    environment, directory = run.value
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
    run = call(ex, FORGE.replace("{0}", data).replace("{1}", then))
    assert run.kind == kind, run
    assert call(ex, "def f(): return 1") == call(ex, "def f(): return 1")


def test_no_forged_record_raises():
    for data in (b"", b"null", b"[]", b"[0,0,0]", b'[0,"ok",["q"]]', b'[0,"ok",["i","zz"]]',
                 b'[0,"ok",["b",3]]', b'[0,[],1]', b'{"a":1,"b":2,"c":3}', b"\x80", b"[" * 10**5,
                 b'[0,"ok",[]]', b'[0,"ok",' + b'["l",' * 60 + b"1" + b"]" * 62):  # fmt: skip
        assert executor._read_record(data, 0) is None
    assert executor._read_record(b'[0,"error",[1]]', 0).kind == "error"


# ---- the trainer's side --------------------------------------------------------------------------


def test_order_of_results(ex):
    jobs = [
        Job(f"def f():\n for _ in range({(9 - i) * 10**4}): pass\n return {i}", ((),))
        for i in range(10)
    ]
    assert [runs[0].value for runs in ex.run(jobs)] == list(range(10))
    assert sorted(index for index, _ in ex.stream(jobs)) == list(range(10))
    assert ex.run([]) == []


def test_duplicates_run_once_and_are_cached(ex):
    job = Job("import os, time\ndef f(x): return os.getpid(), time.time()", ((1,), (2,)))
    first, second = ex.run([job, job])
    assert first[0].kind == "ok" and first == second == ex.run([job])[0]
    one = Job(job.program, ((1,),))
    others = [Job(job.program, ((argument,),)) for argument in (True, 1.0, "1")]
    others.append(Job(job.program + "#", ((1,),)))
    values = {runs[0].value for runs in ex.run([one, *others])}
    assert len(values) == 5


def test_cache_is_bounded():
    with Executor(workers=1, cached_jobs=3, require="weak") as one:
        one.run([Job(f"def f(): return {i}", ((),)) for i in range(6)])
        assert len(one._cache) == 3


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
        runs = one.run([Job(program, ((1,), (2,)))])[0]
        killer.join()
        assert [run.value for run in runs] == [1, 2]
        assert gone([victim])
        (second,) = workers(one)
        assert second != victim
        os.kill(second, signal.SIGKILL)  # while idle
        assert call(one, "def f(): return 3").value == 3


def test_a_program_that_kills_workers_is_infra_and_not_cached(open_ex):
    ex = open_ex
    job = Job("import os\ndef f(x): os.kill(os.getppid(), 9)", ((1,), (2,)))
    fine = Job("def f(x): return x", ((5,),))
    runs = ex.run([job, fine])
    assert [run.kind for run in runs[0]] == ["infra", "infra"] and runs[1][0].value == 5
    assert all(job.program not in key for key in ex._cache)


def test_a_stopped_worker_meets_the_deadline(monkeypatch):
    with Executor(workers=1, cpu_seconds=1.0, require="weak") as one:
        (victim,) = workers(one)
        call(one, "def f(): return 0")

        def extend(worker):
            patience = 0.2 if worker.process.pid == victim else 60
            worker.deadline = time.monotonic() + patience

        monkeypatch.setattr(executor._Worker, "_extend", extend)
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
    assert [runs[0].value for runs in ex.run(jobs)] == list(range(1000, 1020))
    assert not ex._busy and not ex._queues


def test_an_interrupt_in_the_middle_leaves_a_working_executor(ex, monkeypatch):
    jobs = [Job(f"def f(): return {i} + 3000", ((),), seeds=2) for i in range(10)]
    step, calls = executor.Executor._step, []

    def interrupted(self, seconds):
        step(self, seconds)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(executor.Executor, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ex.run(jobs)
    assert [runs[0].value for runs in ex.run(jobs)] == list(range(3000, 3010))
    assert len(calls) > 3


def test_two_threads_are_told_apart(ex):
    with ex._lock, pytest.raises(RuntimeError, match="another thread"):
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
    monkeypatch.setattr(executor.sandbox, "CANARY", "import nothing_like_it")
    with pytest.raises(executor.ExecutorError, match="no worker process"):
        Executor(workers=1, require="weak")


def test_elsewhere_than_on_linux_it_runs_at_level_weak(tmp_path, monkeypatch):
    folder = str(Path(executor.__file__).parent)
    (tmp_path / "elsewhere.py").write_text(
        f"import os, runpy, sys\nsys.path.insert(0, {folder!r})\n"
        "del os.pidfd_open, os.splice\n"
        f"runpy.run_path({executor.__file__!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(executor, "__file__", str(tmp_path / "elsewhere.py"))
    options = dict(cpu_seconds=0.5, require="weak", without=executor.sandbox.LAYERS)
    with Executor(workers=1, **options) as other:
        assert other.level == "weak"
        programs = ["def f(): return 'a' * 60_000", LOOP, "import os\ndef f(): os._exit(3)"]
        runs = other.run([Job(program, ((),), seeds=2) for program in programs])
        assert [run.kind for (run,) in runs] == ["ok", "timeout", "crash"]


def test_the_pool_is_bounded():
    with Executor(workers=8, memory_mb=128, pool_mb=300, require="weak") as small:
        assert len(small._slots) == 2


def test_a_worker_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setattr(executor, "__file__", str(Path(__file__).parent / "nothing.py"))
    with pytest.raises(executor.ExecutorError, match="nothing.py"):
        Executor(workers=1, require="weak")


def test_close_leaves_nothing():
    before = len(os.listdir("/proc/self/fd"))
    with Executor(workers=2, require="weak") as two:
        pids = workers(two)
        run = call(two, "import os\ndef f(): return os.getpid()", seeds=1)
        call(two, "def f(): return 1", seeds=2)
        pids += workers(two) + [run.value]
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
    print(next(iter(ex._slots[0].values())).process.pid, flush=True)
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


def test_only_the_standard_library_and_no_unsafe_loading():
    tree = ast.parse(Path(executor.__file__).read_text())
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert imported <= {*sys.stdlib_module_names, "sandbox"} and not imported & {"pickle", "marshal"}
    called = [n.func.id for n in ast.walk(tree)
              if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]  # fmt: skip
    assert "eval" not in called and called.count("exec") == called.count("compile") == 1


def test_run_defaults():
    assert Run("ok") == Run("ok", None, "", 0.0)


def test_values_that_share_hashes_are_too_big(ex):
    """They would cost the trainer, which compares them, seconds."""
    for made in ("{i * M: 0 for i in range(k)}", "[{i * M for i in range(k)}]"):
        program = f"M = 2**61 - 1\ndef f(k): return {made}"
        assert call(ex, program, 60).kind == "too_big" and call(ex, program, 50).kind == "ok"
    items = ",".join(f'["i","{hex(i * (2**61 - 1))}"]' for i in range(100, 200))
    for tag in "sz":
        assert executor._read_record(f'[0,"ok",["{tag}",{items}]]'.encode(), 0) is None


def test_a_flood_ends_the_child(ex):
    program = "import os\ndef f():\n while 1: os.write(3, b'x' * 65536)"
    assert call(ex, program).kind == "crash"


def test_large_results_are_not_kept():
    with Executor(workers=1, require="weak") as one:
        assert call(one, "def f(): return 'a' * 30_000").kind == "ok" and not one._cache
        assert call(one, "def f(): return 'a'").kind == "ok" and len(one._cache) == 1


def test_a_job_that_ended_before_its_worker_was_lost_is_not_forgotten():
    with Executor(workers=1, require="weak", cpu_seconds=2) as one:
        call(one, "def f(): return 0")
        (worker,) = workers(one)
        jobs = [Job("import time\ndef f():\n time.sleep(0.3)\n return 'first'", ((),)), Job("def f():\n while 1: pass", ((),))]

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
        assert [runs[0].value for runs in ex.run(jobs[20:])] == list(range(7020, 7030))
        ex._cache.clear()


def test_bytes_buy_time_but_no_exemption(ex):
    program = ("import time\nout = open(3, 'wb', 0, closefd=False)\ndef f(x):\n"
               " while 1:\n  out.write(b'\\0')\n  time.sleep(0.3)")  # fmt: skip
    runs = ex.run([Job(program, ((1,), (2,)))])[0]
    assert {run.kind for run in runs} <= {"timeout", "crash", "error"}


def test_results_that_came_before_the_worker_was_lost_count():
    """A child that has answered but not ended, which a program can bring about by writing its own record."""
    program = ("import os\ndef f():\n os.write(3, b'\\0\\0\\0\\x0a[0,\"ok\",5]')\n"
               " while 1: pass")  # fmt: skip
    with Executor(workers=1, require="weak", cpu_seconds=5) as one:
        call(one, "def f(): return 0")
        (worker,) = workers(one)

        def kill_when_answered():
            deadline = time.monotonic() + 20
            while not (one._busy and one._slots[0][0].tasks) and time.monotonic() < deadline:
                time.sleep(0.001)
            while any(task.pending for task in one._slots[0][0].tasks) and time.monotonic() < deadline:
                time.sleep(0.001)
            os.kill(worker, signal.SIGKILL)

        killer = threading.Thread(target=kill_when_answered)
        killer.start()
        assert [run.value for run in one.run([Job(program, ((),))])[0]] == [5]
        killer.join()

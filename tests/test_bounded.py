"""No response can stop, slow or steer the trainer: work is bounded, text stays text, and nothing is believed unread."""
import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import config
import executor
import model
import runfolder
import tasks
import cards
import train
import worst_step
from executor import Executor, Job, Outcome
from report import findings
from report.measure import measure
from sampler import Sample
from sandbox import host
from sandbox.parsing import parse_literal
from sandbox.values import from_wire, printable, same_value, show, to_wire
from tasks import DEDUCTION, INDUCTION, Task
from train import Row

PLUS_ONE = "def f(x):\n    return x + 1"
ESCAPES = "\x1b[2Jgone\x9b1m\x7f\u202eturned\ud800"


@pytest.fixture(scope="module")
def ex():
    with Executor(workers=1, cpu_seconds=0.3, memory_mb=256) as running:
        yield running


def kinds(ex, program, count=4, **options):
    return [outcome.kind for outcome in ex.run([Job(program, tuple((i,) for i in range(count)), **options)])[0]]


def response(*blocks):
    return "thoughts</think><answer>" + "\n".join(tasks.fence(*block) for block in blocks) + "</answer>"


# ----------------------------------------------------------------------------------------------------------------
# Bounded time

@pytest.mark.quick
@pytest.mark.parametrize("ending, kind", [
    ("1 / 0", "error"), ("while 1: pass", "timeout"), ("time.sleep(60)", "timeout"), ("os._exit(0)", "crash"),
    ("return object()", "unserializable"), ("return 'a' * 10**6", "too_big"), ("return [0] * 10**9", "memory")])
def test_calls_that_stand_together_end_at_the_first_failure(ex, ending, kind):
    program = f"import os, time\ndef f(x):\n    if x > 0:\n        {ending}\n    return x"
    ((*outcomes,),) = ex.run([Job(program, tuple((i,) for i in range(4)), seeds=2, together=True)])
    assert [outcome.kind for outcome in outcomes] == ["ok", kind, kind, kind]
    assert [outcome.cpu_seconds for outcome in outcomes[2:]] == [0, 0]  # not run


@pytest.mark.quick
def test_a_second_seed_runs_only_what_gave_something_under_the_first():
    with Executor(workers=1, cpu_seconds=0.1, memory_mb=256) as one:
        for ending in ("while 1: pass", "os._exit(0)"):
            assert kinds(one, f"import os\ndef f(x):\n    {ending}", 1, seeds=2) != ["ok"]
        assert kinds(one, "def f(x): return 1 / x", seeds=2, together=True) == ["error"] * 4
        assert list(one.slots[0]) == [0]  # no worker has another seed
        assert kinds(one, "def f(x): return 1 / x", 2, seeds=2) == ["error", "ok"] and len(one.slots[0]) == 2
        unlike = "def f(x): return (x, hash('a')) if x == 2 else x"
        assert kinds(one, unlike, seeds=2) == ["ok", "ok", "nondeterministic", "ok"]
        assert kinds(one, unlike, seeds=2, together=True) == ["ok", "ok", "nondeterministic", "nondeterministic"]


@pytest.mark.quick
def test_time_wins_over_everything_but_our_own_failures():
    slow, value, infra = Outcome("timeout"), Outcome("ok", 1), Outcome("infra")
    assert executor.merge([value, slow]) == executor.merge([slow, value]) == slow
    assert executor.merge([value, slow, infra]) == infra
    assert executor.merge([value, Outcome("ok", 2)]).kind == executor.merge(
        [value, Outcome("memory")]).kind == "nondeterministic"


@pytest.mark.quick
def test_calls_that_stand_together_have_four_times_the_time_of_one():
    program = ("import time\ndef f(x):\n    since = time.process_time()\n"
               "    while time.process_time() - since < 0.05: pass\n    return x")
    with Executor(workers=1, cpu_seconds=0.1, memory_mb=256) as one:
        together = kinds(one, program, 10, together=True)
        assert together[:4] == ["ok"] * 4 and together[8:] == ["timeout"] * 2
        assert kinds(one, program, 5, seeds=2, together=True)[-1] == "timeout"  # half of it under each seed
        assert kinds(one, program, 9) == ["ok"] * 9


SIX_IN_A_HUNDRED = """
    while True:
        since = time.process_time()
        while time.process_time() - since < 0.003: pass
        time.sleep(0.047)"""


@pytest.mark.parametrize("body", ["time.sleep(60)", SIX_IN_A_HUNDRED, "\n    while True: time.sleep(0.001)",
                                  "\n    lock = _thread.allocate_lock()\n    while lock.acquire(): pass"])
def test_who_sleeps_is_timed_by_the_wall_clock(ex, body):
    ((outcome,),) = ex.run([Job(f"import time, _thread\ndef f(x): {body}", ((1,),), seeds=2)])
    assert outcome.kind == "timeout" and "asleep" in outcome.error and outcome.cpu_seconds < 0.3


@pytest.mark.quick
def test_who_sleeps_a_little_is_let_sleep(ex):
    assert kinds(ex, "import time\ndef f(x):\n    time.sleep(0.02)\n    return x", seeds=2) == ["ok"] * 4


def test_sleepers_end_where_the_kernel_does_not_tell_of_sleep():
    with Executor(workers=1, cpu_seconds=0.1, require="weak", without=("seccomp",)) as one:
        assert kinds(one, "import time\ndef f(x): time.sleep(60)", 2, seeds=2, together=True) == ["timeout"] * 2


@pytest.mark.quick
def test_a_long_wait_is_told(ex, monkeypatch):
    told = []
    monkeypatch.setattr(ex, "tell", told.append)
    ex.run([Job("def f(): return 1", ((),))])
    assert told == [""]
    monkeypatch.setattr(executor, "LONG_WAIT", 0.1)
    ex.run([Job(f"def f():\n    while 1: pass\n# {i}", ((),)) for i in range(2)])
    assert told[1].startswith("waiting for ") and "programs" in told[1] and told[-1] == ""


@pytest.mark.quick
def test_a_log_has_a_line_a_minute_of_what_is_waited_for(capsys):
    line = runfolder.WaitLine()
    for text in ("waiting for 2 programs, 4 s so far", "waiting for 2 programs, 5 s so far", ""):
        line(text)
    assert capsys.readouterr().out == "note: waiting for 2 programs, 4 s so far\n"


@pytest.mark.quick
@pytest.mark.parametrize("write, read", [(show, parse_literal), (to_wire, lambda text: from_wire(json.loads(text)))])
def test_nested_sets_are_written_once_a_level(write, read):
    value = frozenset()
    for level in range(45):  # twice a level, and this would not end
        value = frozenset({value, level})
    assert same_value(read(write(value)), value)
    some = {(1, 2), (0,), "b", "a", 2, True, math.nan, frozenset({3})}
    assert write(some) == write(set(sorted(some, key=repr))) and same_value(read(write(some)), some)


@pytest.mark.quick
@pytest.mark.parametrize("given, valid", [
    ("{nan}", False), ("[frozenset({(float('nan'), 1)})]", False), ("{(nan+1j), 2}", False), ("{1: {2, nan}}", False),
    ("nan", True), ("[{nan: 1}, {1}]", True), ("[[nan], {'nan', inf}]", True)])
def test_no_input_holds_a_nan_in_a_set(ex, given, valid):
    [gated] = tasks.gate([(DEDUCTION, response(("python", "def f(x): return 1"), ("input", given)), None)], ex)
    assert gated.reason == ("valid" if valid else "not deterministic")


@pytest.mark.quick
def test_every_nan_of_a_set_comes_through():
    value = {float("nan"), float("nan"), 1}
    assert len(from_wire(json.loads(to_wire(value)))) == 3 and same_value(parse_literal(show(value)), value)


@pytest.mark.quick
def test_a_value_for_a_task_is_bounded_where_it_is_made(ex):
    for made, fits in (("[0] * 120", True), ("'\\U0001f600' * 390", True), ("[()] * 90", True), ("[1j] * 90", True),
                       ("[0] * 600", False), ("[()] * 600", False), ("'a' * 6000", False),
                       ("{(i,) for i in range(600)}", False)):
        assert kinds(ex, f"def f(x): return {made}", 1, most=400) == ["ok" if fits else "too_big"], made
        if fits:
            assert len(show(eval(made))) <= 400
    many = json.dumps([0, "ok", ["l", *[0] * 1000]]).encode()
    assert executor.read_record(many, 0) and not executor.read_record(many, 0, most=400)


@pytest.mark.quick
def test_records_that_are_alike_are_read_once(ex, monkeypatch):
    read, seen = executor.read_record, []
    monkeypatch.setattr(executor, "read_record", lambda data, *rest: seen.append(data) or read(data, *rest))
    outcomes = ex.run([Job("def f(x): return [x, {1: {2}}]", ((1,), (2,)), seeds=3)])[0]
    assert [outcome.value for outcome in outcomes] == [[1, {1: {2}}], [2, {1: {2}}]] and len(seen) == 2
    assert kinds(ex, "def f(x): return {c: 1 for c in {'a', 'b', 'c', 'd'}}", seeds=3) == ["ok"] * 4  # other orders


@pytest.mark.quick
def test_drips_reach_the_trainer_in_few_pieces(ex, monkeypatch):
    pieces, take = [], executor.Worker.take_records
    monkeypatch.setattr(executor.Worker, "take_records", lambda self, cpu: pieces.append(1) or take(self, cpu))
    assert kinds(ex, "import os\ndef f(x):\n    while 1: os.write(3, b'\\0')", 1) != ["ok"]
    assert len(pieces) < 200  # one in five milliseconds, of 0.3 s


SUSPECT = "def f(x):\n    def g(): return x\n    {}return [g][0]()"  # may show an address, so it is watched


@pytest.mark.quick
def test_all_calls_that_are_watched_have_four_times_the_time_of_one(ex, monkeypatch):
    ran = []
    monkeypatch.setattr(ex, "run", lambda jobs, run=ex.run: ran.append((jobs, run(jobs))) or ran[-1][1])
    reference = Task("deduction", SUSPECT.format("\n    while 1: pass\n    "), ((1,),), (1,))
    text = response(*[("input", str(i)) for i in range(4)], ("message", "m"))
    [gated] = tasks.gate([(INDUCTION, text, reference)], ex, n_inputs=4)
    (_, watched), (_, outcomes) = (one[-2:] for one in ran[-1])
    assert gated.reason == "timeout" and watched.entry != "f"
    assert [outcome.kind for outcome in outcomes] == ["timeout"] * 4
    assert [outcome.cpu_seconds for outcome in outcomes[1:]] == [0] * 3  # not run


@pytest.mark.quick
def test_a_response_has_so_many_blocks():
    text = "</think><answer>" + tasks.fence("a", "b") * (tasks.MAX_BLOCKS + 5) + "</answer>"
    assert tasks.answer_blocks(text) == [("a", "b")] * tasks.MAX_BLOCKS


@pytest.mark.slow
def test_a_step_of_the_worst_responses_ends_and_says_what_it_waits_for(tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "LONG_WAIT", 0.1)
    cfg = worst_step.configuration(["--batch_size", "2", "--n_probes", "3", "--cpu_seconds", "0.05"])
    with Executor(1, cfg.cpu_seconds, 256, require="weak") as one:
        seen = worst_step.worst_step(cfg, tmp_path, one)
    verdicts = {verdict for _, _, verdict in seen["verdicts"]}
    assert sum(seen["verdicts"].values()) == seen["responses"] and "timeout" in verdicts
    assert not verdicts & {None, "", "infra"} and seen["told"][0].startswith("waiting for ")


# ----------------------------------------------------------------------------------------------------------------
# Text is text

@pytest.mark.quick
@pytest.mark.parametrize("inputs, repeats", [
    ("1 2 3 1.0 5 6", True), ("1 2 3 4 5 True", True), ("1 0 3 4 -0.0 6", True),
    ("1 2 float('nan') 3 float('nan') 4", True),
    ("[1] [2] [3] [1.0] [4] [5]", True), ("{1} {2} {3} frozenset({2.0}) {4} {5}", True), ("1 2 3 4 5 3", True),
    ("1 1 2 3 3 4", False), ("1 2 3 '1' [2] (3,)", False), ("1 2 3 4 5 5", False)])
def test_hidden_inputs_differ_in_value_from_shown_ones(ex, inputs, repeats):
    text = response(*[("input", text) for text in inputs.split()], ("message", "m"))
    reference = Task("deduction", "def f(x):\n    return 1", ((1,),), (1,))
    [gated] = tasks.gate([(INDUCTION, text, reference)], ex, n_inputs=6)
    assert gated.reason == ("inputs repeat" if repeats else "valid")


@pytest.mark.quick
@pytest.mark.parametrize("program, given", [
    ("def f(x):\n    return x  # <eos>", "1"), (PLUS_ONE.replace("1", "'a'"), "'<eos>'"),
    ("def f(x):\n    return '<' + x", "'eos>'"), ("def f(x):\n    return x + 1\n# [/INST]", "1")])
def test_special_tokens_are_a_reason_of_the_gate(ex, program, given):
    text = response(("python", program), ("input", given))
    marks = ("<eos>", "[/INST]")
    [gated], [free] = (tasks.gate([(DEDUCTION, text, None)], ex, markers=some) for some in (marks, ()))
    assert gated == tasks.Gated(None, "special token") and free.task
    for other in ("<|im_end|>", "<|eot_id|>", "<\uff5cUser\uff5c>"):  # of whatever tokenizer
        text = response(("python", PLUS_ONE), ("input", repr(other)))
        assert tasks.gate([(DEDUCTION, text.replace("+ 1", "+ x"), None)], ex)[0].reason == "special token"


def test_no_message_and_no_task_file_holds_a_special_token(ex, tmp_path):
    text = response(*[("input", str(i)) for i in range(6)], ("message", "see <eos>"))
    [gated] = tasks.gate([(INDUCTION, text, Task("deduction", PLUS_ONE, ((1,),), (2,)))], ex, n_inputs=6,
                         markers=("<eos>",))
    assert gated.reason == "special token"
    path = tmp_path / "tasks.jsonl"
    rows = [Task("deduction", PLUS_ONE, ((1,),), (2,)),
            Task("deduction", "def f(x):\n    return x", (("<eos>",),), ("<eos>",))]
    path.write_text("".join(json.dumps(tasks.task_to_json(row)) + "\n" for row in rows))
    assert len(tasks.load_tasks(str(path), ex)) == 2
    with pytest.raises(ValueError, match="line 2: holds a special token"):
        tasks.load_tasks(str(path), ex, ("<eos>",))


def test_encoding_makes_no_special_token_of_text(tokenizer):
    policy = SimpleNamespace(tokenizer=tokenizer)
    ids = model.encode(policy, "solve deduction\n# <eos> <pad><unk>\n<think>")
    assert not {0, 1, 2} & set(ids) and tokenizer.decode(ids) == "solve deduction\n# <eos> <pad><unk>\n<think>"
    assert {"<eos>", "<pad>", "<unk>", "<think>", "</answer>"} <= set(model.markers(policy))
    assert not any(mark in PLUS_ONE for mark in model.markers(policy))
    tokenizer.chat_template = ("{% for m in messages %}<|{{ m.role }}|> {{ m.content }} [/INST]\n{% endfor %}"
                               "{% if add_generation_prompt %}<|assistant|>{% endif %}")
    try:
        wrap = model.chat_template(policy)
        text = wrap("a<eos>b", "<think>c</think>", "d")
        assert "<eos>" not in text and "<think>c</think>" in text and "eos>b" in text
        assert "[/INST]\n<|assistant|>" in model.markers(policy, wrap)
    finally:
        tokenizer.chat_template = None


@pytest.mark.quick
def test_nothing_raw_is_said(capsys, monkeypatch):
    assert printable("a\n\tb\u00e9\U0001f600") == "a\n\tb\u00e9\U0001f600"
    raw = [chr(code) for code in (*range(9), *range(11, 32), *range(127, 160), 0x200b, 0x2028, 0x202a, 0x202e, 0x2066,
                                  0x2069, 0xd800, 0xfeff, 0xe0001)]
    assert set(printable("".join(raw))) == {"\N{REPLACEMENT CHARACTER}"}
    runfolder.say(ESCAPES)
    monkeypatch.setattr(train, "main", lambda argv: (_ for _ in ()).throw(config.UserError(ESCAPES)))
    assert train.run_main([]) == 2
    told = capsys.readouterr()
    for text in (told.out, *told.err.splitlines()):
        assert "turned" in text and all(c.isprintable() or c == "\n" for c in text)


def test_the_command_prints_a_line_a_call():
    program = "def f(x):\n    raise ValueError('\\x1b[2J\\nok       7\\u202e')"
    done = subprocess.run([sys.executable, executor.__file__, "1", "2"], input=program, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 3 and all(line.isprintable() for line in done.stdout.splitlines())


# ----------------------------------------------------------------------------------------------------------------
# What comes back is checked

@pytest.mark.quick
def test_a_measurement_is_checked_before_it_is_believed():
    true = measure(PLUS_ONE, "1")
    assert findings.can_be_measured(true) and findings.can_be_measured(true | {"halstead": None})
    for wrong in (None, 24, [], {}, true | {"more": 1}, {k: v for k, v in true.items() if k != "key"},
                  *(true | {name: value} for name in findings.NUMBERS
                    for value in (-1, 10**9, math.nan, math.inf, "1", True, [1], 10**400)),
                  *(true | {name: value} for name in findings.HEX
                    for value in ("", "zz", 3, None, ["a"], true[name] * 9, true[name] + "\n", "G" + true[name][1:]))):
        assert not findings.can_be_measured(wrong), wrong


@pytest.mark.quick
def test_a_program_to_watch_is_checked_before_it_is_run(ex, monkeypatch):
    run, text = ex.run, response(("python", SUSPECT.format("")), ("input", "1"))
    for lie in (None, 3, "ab", [], ["a"], ["a", 1], ("a", "b"), {0: "a", 1: "b"}, "watched"):
        told = [Outcome("ok", lie)]
        monkeypatch.setattr(ex, "run", lambda jobs: [told if job.entry == "watched" else outcomes
                                                     for job, outcomes in zip(jobs, run(jobs))])
        assert tasks.gate([(DEDUCTION, text, None)], ex)[0].reason == "valid", lie


def test_programs_that_forge_their_measurement_are_not_measured():
    record = json.dumps([0, "ok", ["d", "key", "evil", "executed", 1e308, "cyclomatic", -5, "halstead", None,
                                   "fingerprint", "xyz", "behaviour", "b"]]).encode()
    data = struct.pack("!I", len(record)) + record
    forged = f"import os\nos.write(3, {data!r})\nos._exit(0)\ndef f(x):\n    return x"
    rows = [{"step": 1, "kind": "propose", "type": "deduction", "role": "propose", "text": "",
             "task": tasks.task_to_json(Task("deduction", program, ((1,),), (1,)))} for program in (PLUS_ONE, forged)]
    history = SimpleNamespace(samples=rows, series={})
    with Executor(workers=1, preload=("report.measure",)) as running:
        findings.measure_programs(history, running)
    assert (history.measured, history.programs) == (1, 2) and history.series["executed/deduction"] == ([1], [1])


@pytest.mark.quick
def test_a_reader_that_was_taken_over_is_not_believed(ex):
    class Liar:
        def run(self, jobs):
            return [[Outcome("ok", lie)] * len(job.inputs) for job in jobs]
    for lie in (None, 3, "key", {}, {"key": 1, "depth": 0, "reason": ""}, {"key": "a", "depth": 0, "reason": ""},
                {"key": "a" * 64, "depth": -1, "reason": ""}, {"key": "a" * 64, "depth": True, "reason": ""},
                {"key": "a" * 64, "depth": 10**9, "reason": ""}, {"key": "a" * 64, "depth": 1, "reason": ["x"]}):
        text = response(("python", PLUS_ONE), ("input", "1"))
        [gated] = tasks.gate([(DEDUCTION, text, None)], Liar())
        assert gated.task is None, lie


# ----------------------------------------------------------------------------------------------------------------
# Memory and cores

@pytest.mark.quick
def test_programs_are_the_memory_killers_first_choice(ex):
    own = Path("/proc/self/oom_score_adj").read_text()
    for slot in ex.slots:
        for worker in slot.values():
            assert Path(f"/proc/{worker.process.pid}/oom_score_adj").read_text() == "1000\n" != own


def fake(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


MEMINFO = "MemTotal:       8388608 kB\nMemFree:         100 kB\nMemAvailable:   4194304 kB\nHugePages_Total:       0\n"
GB = 1 << 30
V2 = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/a/b\n"}
V1 = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "4:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n0::/\n"}


@pytest.mark.quick
@pytest.mark.parametrize("files, memory, cores", [
    ({"proc/meminfo": MEMINFO}, (8 * GB, 4 * GB), None),
    (V2 | {"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.current": "5\n"}, (8 * GB, 4 * GB), None),
    (V2 | {"sys/fs/cgroup/a/memory.max": f"{2 * GB}\n", "sys/fs/cgroup/a/memory.current": f"{GB}\n",
           "sys/fs/cgroup/a/memory.stat": f"anon 7\ninactive_file {GB // 2}\n"}, (2 * GB, 3 * GB // 2), None),
    (V2 | {"sys/fs/cgroup/memory.max": f"{GB}\n", "sys/fs/cgroup/memory.current": f"{2 * GB}\n",
           "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, (GB, 0), 2),  # the path is the host's
    (V2 | {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"},
     (8 * GB, 4 * GB), 1),
    (V1 | {"sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": f"{2 * GB}\n",
           "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes": f"{GB}\n",
           "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "100000\n",
           "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n"}, (2 * GB, GB), 1),
    (V1 | {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
           "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GB}\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
           "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, (8 * GB, 4 * GB), None),
    (V2 | {"sys/fs/cgroup/a/b/memory.max": "junk\n", "sys/fs/cgroup/a/b/cpu.max": "\n"}, (8 * GB, 4 * GB), None)])
def test_limits_come_from_the_control_group(tmp_path, monkeypatch, files, memory, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5, 7})
    root = fake(tmp_path, files)
    assert host.memory(root) == memory and host.cores(root) == min(3, cores or 3)


def test_workers_fit_into_the_memory_that_is_allowed(monkeypatch):
    monkeypatch.setattr(host, "memory", lambda: (2 * GB, GB))
    with Executor(workers=8, memory_mb=512) as small:
        assert len(small.slots) == 2
    assert cards.free_bytes(SimpleNamespace(device=SimpleNamespace(type="cpu"))) == GB


# ----------------------------------------------------------------------------------------------------------------
# Learnability

def probe(verdict, finish="stop"):
    return Row("solve", "probe", "deduction", "", [], sample=Sample([1], [0.0], finish), verdict=verdict)


RIGHT, WRONG, CUT, LOST = probe("correct"), probe("wrong"), probe("bad format", "length"), probe("infra")
LATE = probe("correct", "length")  # what stands behind an answer costs it nothing


@pytest.mark.quick
@pytest.mark.parametrize("how, probes, rate, learnability", [
    ("unsolved", [RIGHT, RIGHT, WRONG, WRONG], 0.5, 0.5), ("unsolved", [RIGHT, RIGHT, CUT, CUT], 0.5, 0.5),
    ("left_out", [RIGHT, RIGHT, CUT, CUT], 1, 0), ("left_out", [RIGHT, WRONG, CUT, LOST], 0.5, 0.5),
    ("unsolved", [RIGHT, RIGHT, LOST, LOST], 1, 0), ("unsolved", [RIGHT, LATE], 1, 0),
    ("left_out", [LATE, WRONG], 0.5, 0.5),
    ("left_out", [CUT, CUT], None, 0), ("unsolved", [CUT, CUT], 0, 0)])
def test_probes_that_fail_for_their_length_can_be_left_out(how, probes, rate, learnability):
    cfg = config.Config(cut_off_probes=how)
    assert train.measure(cfg, [row for row in probes if train.counts(cfg, row)]) == (rate, learnability)


@pytest.mark.quick
def test_what_cut_off_probes_earn_is_told():
    def proposal(probes, learnability, whole):
        task = Task("deduction", PLUS_ONE, ((1,),), (2,))
        return Row("propose", "propose", "deduction", "", [], task=task, probes=probes, verdict="valid",
                   sample=Sample([1], [0.0], "stop"), solve_rate=0.5, learnability=learnability,
                   learnability_whole=whole)
    rows = [proposal([RIGHT, CUT], 0.5, 0.0), proposal([RIGHT, WRONG, LOST], 0.5, 0.5)]
    cfg = config.Config(types=["deduction"], max_new_tokens=77)
    run = SimpleNamespace(cfg=cfg, step=1, buffers=tasks.Buffers(9),
                          policy=SimpleNamespace(device=SimpleNamespace(type="cpu")))
    m = runfolder.step_metrics(run, rows, rows, SimpleNamespace(seconds={"rollout": 1.0}))
    assert m["learnability_cut_off/deduction"] == 0.5
    assert (m["probes_cut_off/deduction"], m["probes_infra/deduction"]) == (0.2, 0.2)
    [line] = [line for key, line in runfolder.step_warnings(m, cfg, {}) if key.startswith("learnability_cut_off")]
    assert "50%" in line and "77" in line and "--cut_off_probes left_out" in line
    rows[0].learnability = 0.0
    m = runfolder.step_metrics(run, rows, rows, SimpleNamespace(seconds={"rollout": 1.0}))
    assert m["learnability_cut_off/deduction"] == 0

"""Every command with every option at its extremes: it works, or one line says what is wrong."""
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_origin

import pytest

import command
import eval as evaluation
import executor as executor_module
import train
from config import Config, kind_of
from experiments import __main__ as experiments
from experiments import takeoff, work
from nano import make
from report import __main__ as report
from runs import ROOT, TINY, run_train
from speed import __main__ as speed
from speed import gpu, measure
from tools import __main__ as tools
from tools import doctor, show

HUGE = 10**30
EXTREMES = {int: ["0", "1", "-1", str(HUGE), str(-HUGE), "9" * 400, "1.5", "many", ""],
            float: ["0", "-1", "1e300", "-1e300", "1e-300", "nan", "-inf", "9" * 400, "much", ""],
            bool: ["yes", "no", "perhaps", ""],
            str: ["", "nowhere", "nowhere/at/all", ".", "file", "x" * 5000, "ä\x1b[2J", "-", "--", "~nobody",
                  "/dev/null"]}


def outcome(run, *words) -> str:
    """"" if run(words) ends well or with one line on stderr, else what it said or raised."""
    errors, out = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(out):
            status = run(list(words))
    except SystemExit as ended:
        status = ended.code
    except BaseException as error:
        return f"{words}: {type(error).__name__}: {error}"
    told = errors.getvalue()
    fine = status in (0, None) or told.count("\n") == 1 and told.endswith("\n")
    return "" if fine else f"{words}: status {status}, {told!r}"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a file that is no task file."""
    (tmp_path / "file").write_text("no tasks\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    return tmp_path


# ---- train.py ---------------------------------------------------------------------------------------------------

BASE = ["--preset", "nano", "--device", "cpu"]


def calls_of(field) -> list[list[str]]:
    choices = get_args(kind_of(field)) if kind_of(field) not in EXTREMES else ()
    values = [*choices, "bogus", ""] if choices else EXTREMES[kind_of(field)]
    calls = [[f"--{field.name}={value}"] for value in values]
    if get_origin(field.type) is list:
        calls += [[f"--{field.name}"], [f"--{field.name}", "deduction", "deduction"]]
    if kind_of(field) is bool:
        calls += [[f"--{field.name}"], [f"--no_{field.name}"]]
    return calls + [[f"--{field.name}"], [f"--{field.name}", "--steps"]]


@pytest.fixture
def no_work(monkeypatch):
    """train.py up to where the model would be loaded."""
    monkeypatch.setattr(train, "Executor", lambda *_, **__: contextlib.nullcontext(Namespace(level="none", leaks=[])))
    monkeypatch.setattr(train, "start", lambda *_: (None, None))
    monkeypatch.setattr(train, "go_on", lambda *_: None)


@pytest.mark.parametrize("field", fields(Config), ids=lambda field: field.name)
def test_every_option_of_training_at_its_extremes(field, here, no_work):
    bad = [outcome(train.run_main, *BASE, *([] if field.name == "name" else ["--name", f"a{number}"]), *call)
           for number, call in enumerate(calls_of(field))]
    assert not list(filter(None, bad))


@pytest.mark.slow
@pytest.mark.parametrize("field", [f for f in fields(Config) if kind_of(f) in (int, float)], ids=lambda f: f.name)
def test_numbers_that_are_taken_make_a_step(field, here, monkeypatch):
    """Up to where a step has to be made, or the whole step if the number is a small one."""
    def out_of_time(number, frame):
        raise TimeoutError
    monkeypatch.setattr(train, "write_report", lambda run: None)
    small = [flag for flag in TINY if flag != "--device" and flag != "cpu"]
    previous = signal.signal(signal.SIGALRM, out_of_time)
    for number, value in enumerate(EXTREMES[kind_of(field)]):
        words = [*small, "--device", "cpu", "--steps", "1", "--types", "deduction", "--name", f"b{number}",
                 f"--{field.name}={value}"]
        signal.alarm(8)
        try:
            said = outcome(train.run_main, *words)
        finally:
            signal.alarm(0)
        assert not said or "TimeoutError" in said, said
    signal.signal(signal.SIGALRM, previous)


# ---- the other commands -------------------------------------------------------------------------------------------

def run_eval(words: list[str]) -> int:
    before, sys.argv = sys.argv, ["eval.py", *words]
    try:
        return evaluation.main()
    finally:
        sys.argv = before


# name: (function, words that it needs, where its work begins). What is not stubbed fails at once: paths lead nowhere.
COMMANDS = {
    "eval": (run_eval, [], [(evaluation, "prepare", []), (evaluation, "run_stages", 0), (evaluation, "fetch", 0),
                            (evaluation, "scorer", contextlib.nullcontext())]),
    "report": (report.main, ["nowhere"], []),
    "experiments": (experiments.main, ["learns"], [(experiments, "run_plan", None),
                                                   (experiments, "write_results", "")]),
    "takeoff": (takeoff.main, ["--model", "nowhere", "--arms", "identity"],
                [(takeoff, "run_commands", None), (takeoff, "write_results", ""),
                 (takeoff, "write_pool", None)]),
    "work supervise": (lambda words: command.run("work", work.main, ["supervise", *words]),
                       ["nowhere", "--like", "nowhere", "--seed", "0"], []),
    "work pool": (lambda words: command.run("work", work.main, ["pool", *words]),
                  ["nowhere", "--kind", "late", "--count", "3", "--seed", "0"], [(work, "write_pool", None)]),
    "work score": (lambda words: command.run("work", work.main, ["score", *words]),
                   ["nowhere", "--model", "nano", "--limit", "3"], [(work, "score_run", None)]),
    "doctor": (lambda words: tools.main(["doctor", *words]), BASE, [(doctor, "doctor", None)]),
    "export": (lambda words: tools.main(["export", *words]), ["nowhere", "out"], []),
    "chat": (lambda words: tools.main(["chat", *words]), ["nowhere"], []),
    "show": (lambda words: tools.main(["show", *words]), ["file"], [(show, "Executor", contextlib.nullcontext())]),
    "speed": (speed.main, ["rollout"], [(speed, "WHAT", {"rollout": lambda args: {}})]),
    "gpu": (lambda words: speed.main(["gpu", *words]), ["--dry", "--here"], [(gpu, "in_its_own_process", True),
                                                                            (gpu, "run_part", 0)]),
    "make": (lambda words: command.run("make", make.main, words), ["--out", "made", "--steps", "1"],
             [(make, "draw_heldout", []), (make, "write_heldout", None), (make, "train", None)]),
}


def parser_of(run, needed: list[str], monkeypatch):
    found = []

    def caught(self, *_):
        found.append(self)
        raise SystemExit(0)
    with monkeypatch.context() as patched:
        patched.setattr(command.Parser, "parse_known_args", caught)
        outcome(run, *needed)
    return found[0]


def calls_for(action, needed: list[str]) -> list[list[str]]:
    if not action.option_strings:
        return [[value, *needed[1:]] for value in EXTREMES[str] if not value.startswith("-")]
    name = action.option_strings[-1]
    if action.nargs == 0:
        return [[*needed, name], [*needed, f"{name}=1"]]
    texts = [*map(str, action.choices), "bogus"] if action.choices else []
    if not texts:
        kind = getattr(action.type, "__qualname__", "").split(".")[0]
        texts = EXTREMES[{"whole": int, "int": int, "real": float, "float": float}.get(kind, str)]
    several = [[*needed, name, "1", "1"], [*needed, name]]
    return [[*needed, f"{name}={text}"] for text in texts] + several


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command_at_its_extremes(name, here, monkeypatch):
    run, needed, stubs = COMMANDS[name]
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # else gpu --dry starts itself anew with it, without the stubs
    monkeypatch.setattr(measure, "HERE", here)  # --publish would write beside the real results
    for module, attribute, value in stubs:
        stub = value if isinstance(value, dict) else lambda *_, _value=value, **__: _value
        monkeypatch.setattr(module, attribute, stub)
    parser = parser_of(run, needed, monkeypatch)
    assert {action.dest for action in parser._actions} - {"help"}
    bad = [outcome(run, *words) for action in parser._actions if action.dest != "help"
           for words in calls_for(action, needed)]
    bad += [outcome(run, *words) for words in ([], ["--help"], ["--bogus"], [*needed, "--bogus"], ["bogus"])]
    assert not list(filter(None, bad))


@pytest.mark.parametrize("name", [name for name in COMMANDS if not name.startswith("work")])  # a command calls those
def test_help_explains_every_option_with_its_default_on_two_screens(name, here, monkeypatch):
    run, needed, _ = COMMANDS[name]
    parser = parser_of(run, needed, monkeypatch)
    assert not [action.dest for action in parser._actions if not action.help]
    lines = parser.format_help().splitlines()
    assert len(lines) <= 100 and max(map(len, lines)) <= 120
    for action in parser._actions:
        if action.option_strings and isinstance(action.default, int) and not isinstance(action.default, bool):
            assert f"[{action.default}]" in " ".join(lines), action.dest


def test_an_option_with_a_slip_is_told_what_it_may_stand_for(here, capsys):
    for run, word, meant in ((train.run_main, "--step=3", "--steps"), (train.run_main, "-steps", "--steps"),
                             (run_eval, "--temprature=1", "--temperature"), (report.main, "--outt=x", "--out")):
        with contextlib.suppress(SystemExit):
            run([*(["x"] if run is report.main else []), word])
        assert f"(is {meant} meant?)" in capsys.readouterr().err
    train.run_main(["--bogus", "--model"])
    assert "meant" not in capsys.readouterr().err


def test_the_executor_as_a_command(here):
    def run(words):
        return command.run("executor.py", executor_module.main, words)
    assert not list(filter(None, (outcome(run, text) for text in [*EXTREMES[str], "1, x", "(", "--help"])))
    assert not outcome(lambda _: run([])) and run([]) == 2


def test_how_threads_wait_is_set_once_and_is_the_users_to_say(monkeypatch):
    for busy, chosen in ((False, {"GOMP_SPINCOUNT": "10000"}), (True, {"OMP_WAIT_POLICY": "PASSIVE"})):
        monkeypatch.setattr(command, "others_run", lambda: busy)
        environment = {}
        command.set_waiting(environment)
        assert environment == chosen
        command.set_waiting(environment := {"KMP_BLOCKTIME": "1"})
        assert environment == {"KMP_BLOCKTIME": "1"}
    monkeypatch.undo()
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    try:
        time.sleep(0.3)
        assert command.others_run()
    finally:
        for process in spinning:
            process.kill()
            process.wait()


@pytest.mark.parametrize("file", ["train.py", "eval.py", "executor.py", "nano/make.py", "report/__main__.py",
                                  "experiments/__main__.py", "experiments/work.py", "speed/__main__.py",
                                  "tools/__main__.py", "loading.py", "config.py"])
def test_what_torch_reads_is_set_before_it_is_imported(file):
    words = re.findall(r"^(?:import|from) ([a-z_.]+)", (ROOT / file).read_text(), re.MULTILINE)
    heavy = [words.index(name) for name in ("torch", "config", "runfolder", "model", "train") if name in words]
    assert words.index("command") < min(heavy, default=99)


# ---- from outside ------------------------------------------------------------------------------------------------

def start(*words: str, cwd: Path, **options) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *words], cwd=cwd, env=environment, text=True, stderr=subprocess.PIPE,
                            **options)


@pytest.mark.parametrize("words", [[str(ROOT / "train.py"), *TINY], ["-m", "report", "x"]], ids=["train", "report"])
def test_ctrl_c_while_imports_run_ends_with_one_line(words, tmp_path):
    for seconds in (0.0, 0.4, 1.0):
        process = start("-X", "importtime", *words, cwd=tmp_path, stdout=subprocess.DEVNULL)  # a line for every import
        hangs = threading.Timer(60, process.kill)
        hangs.start()
        for line in process.stderr:
            if line.split()[-1] == "command":
                break
        assert process.stderr.readline()  # the next import: `starting`, which follows `command`, is done
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        told = [line for line in process.stderr if not line.startswith("import time:")]
        assert len(told) <= 1 and "Traceback" not in "".join(told), told
        assert process.wait() > 0, "by itself, not killed"
        hangs.cancel()


def test_a_reader_that_goes_away_ends_a_command_quietly_and_a_run_with_the_way_on(tmp_path):
    process = start(str(ROOT / "train.py"), *TINY, "--steps", "50", "--name", "a", cwd=tmp_path, stdout=subprocess.PIPE)
    for line in process.stdout:
        if line.startswith("step    1"):
            break
    process.stdout.close()
    told = process.stderr.read()
    assert told == ("train.py: nobody reads the output any more; what was saved is whole: go on with python train.py"
                    " --resume runs/a\n")
    process = start("-m", "tools", "--help", cwd=tmp_path, stdout=subprocess.PIPE)
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("flag, status", [("-O", 0), ("-OO", 1)])
def test_python_without_docstrings_is_refused_in_a_line(flag, status, tmp_path):
    process = start(flag, str(ROOT / "eval.py"), "--help", cwd=tmp_path, stdout=subprocess.DEVNULL)
    assert process.stderr.read().count("\n") == status and process.wait() == status


@pytest.mark.quick
def test_a_lack_of_memory_is_a_line_and_other_errors_keep_their_traceback():
    told = command.ending(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    assert told[0] == 1 and told[1].startswith("out of memory") and command.ending(RuntimeError("odd")) == (None, "")


def test_a_package_that_is_missing_is_named(tmp_path):
    (tmp_path / "torch.py").write_text("import no_such_package\n")
    process = start("-m", "report", "x", cwd=tmp_path, stdout=subprocess.DEVNULL)
    told = process.stderr.read()
    assert "no_such_package" in told and told.count("\n") == 1, told


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "runs").write_text("a file")
    done = run_train(tmp_path, *TINY)
    assert done.returncode == 1 and done.stderr.startswith("train.py: ") and done.stderr.count("\n") == 1

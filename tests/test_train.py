"""Whole runs of train.py from outside: files, resumes, kills, full disks, error lines."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import model
import runfolder
import train
from config import PRESETS, Config, parse
from runs import ROOT, TINY, run_train
from tasks import TYPES

# ---- whole runs -------------------------------------------------------------------------------------------------

TIMES = ("seconds/", "tokens_per_second", "peak_memory_gb", "mfu", "sampling_bandwidth")


def metrics_of(folder: Path) -> list[dict]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if not key.startswith(TIMES)} for line in lines]


def same_run(a: Path, b: Path) -> None:
    """Bit-equal but for times: metrics, samples, weights, optimizer state, buffers."""
    assert metrics_of(a) == metrics_of(b)
    assert (a / "samples.jsonl").read_text() == (b / "samples.jsonl").read_text()
    states = [json.loads((folder / "checkpoint" / "state.json").read_text()) for folder in (a, b)]
    assert states[0]["step"] == states[1]["step"] and states[0]["buffers"] == states[1]["buffers"]
    sums = [json.loads((folder / "checkpoint" / "checksums.json").read_text()) for folder in (a, b)]
    assert {k: v for k, v in sums[0].items() if k != "state.json"} == {k: v for k, v in sums[1].items() if k != "state.json"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An uninterrupted run of three steps."""
    folder = tmp_path_factory.mktemp("whole")
    done = run_train(folder, *TINY, "--steps", "3", "--name", "a")
    assert done.returncode == 0, done.stderr
    assert "| deduction | all |" in done.stdout and "preset nano" in done.stdout.splitlines()[0]
    return folder / "runs" / "a"


def test_a_run_leaves_its_files(whole):
    saved = json.loads((whole / "config.json").read_text())
    assert set(saved) == {f.name for f in fields(Config)} and saved["batch_size"] == 3
    assert [line["step"] for line in metrics_of(whole)] == [0, 1, 2, 3]  # 0: an evaluation before training
    evaluated = [line["step"] for line in metrics_of(whole) if "heldout" in line]
    assert evaluated == [0, 3] and "deduction" in metrics_of(whole)[-1]["heldout_change"]
    samples = [json.loads(line) for line in (whole / "samples.jsonl").read_text().splitlines()]
    assert {sample["step"] for sample in samples} == {0, 1, 2, 3}
    assert {"role", "kind", "type", "prompt", "text", "reward", "verdict", "finish"} <= set(samples[0])
    assert (whole / "checkpoint" / "policy" / "adapter_model.safetensors").is_file()
    assert (whole / "checkpoint.old" / "state.json").is_file()
    table = (whole / "heldout.md").read_text()
    assert "| type | depth | tasks | before | without training | after | change |" in table
    assert "the best of four ways to ask it" in table, "and which of them it is"
    assert "</html>" in (whole / "report.html").read_text()
    assert json.loads((whole / "machine.json").read_text())["commit"]
    assert json.loads((whole / "preset.json").read_text())["batch_size"] == PRESETS["nano"]["batch_size"]


def test_every_field_of_a_run_is_documented(whole):
    text = (ROOT / "report" / "README.md").read_text()

    def pattern(key: str) -> str:
        for some, name in ((TYPES, "TYPE"), (("propose", "solve"), "ROLE")):
            key = re.sub(rf"(?<=/)({'|'.join(some)})(?=/|$)", name, key)
        return re.sub(r"gate/TYPE/.*", "gate/TYPE/REASON", re.sub(r"solved_of_\d+", "solved_of_N", key))
    for name in ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl"):
        keys = {pattern(key) for line in (whole / name).read_text().splitlines() for key in json.loads(line)}
        assert not [key for key in keys if f"`{key}`" not in text], name
    assert not [path.name for path in whole.iterdir() if path.name.split(".")[0] not in text and path.name != "lock"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(whole, tmp_path):
    assert run_train(tmp_path, *TINY, "--steps", "3", "--name", "a").returncode == 0
    same_run(whole, tmp_path / "runs" / "a")


def test_kill_in_the_middle_of_a_step_then_resume_is_bit_equal(whole, tmp_path):
    folder = tmp_path / "runs" / "a"
    process = subprocess.Popen([sys.executable, str(ROOT / "train.py"), *TINY, "--steps", "3", "--name", "a"], cwd=tmp_path,
                               env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    state = folder / "checkpoint" / "state.json"
    while process.poll() is None:  # the checkpoint of step 1 is there: step 2 is under way
        try:
            if json.loads(state.read_text())["step"] >= 1:
                break
        except (OSError, ValueError):
            pass
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # What a step had written when it died, and a checkpoint it had begun.
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "half a li')
    (folder / "checkpoint.new").mkdir(exist_ok=True)
    done = run_train(tmp_path, "--resume", "runs/a")
    assert done.returncode == 0, done.stderr
    same_run(whole, folder)


def test_a_killed_rename_leaves_the_previous_checkpoint_in_use(whole, tmp_path):
    """Between the two renames of save_checkpoint there is no folder `checkpoint`."""
    assert runfolder.find_checkpoint(tmp_path) is None
    shutil.copytree(whole / "checkpoint.old", tmp_path / "checkpoint.old")
    assert runfolder.find_checkpoint(tmp_path) == tmp_path / "checkpoint.old"
    shutil.copytree(whole / "checkpoint", tmp_path / "checkpoint.new")
    (tmp_path / "checkpoint.new" / "optimizer.pt").rename(tmp_path / "optimizer.pt")
    assert runfolder.find_checkpoint(tmp_path) == tmp_path / "checkpoint.old"  # the new one is not complete
    (tmp_path / "optimizer.pt").rename(tmp_path / "checkpoint.new" / "optimizer.pt")
    assert runfolder.find_checkpoint(tmp_path) == tmp_path / "checkpoint"


@pytest.fixture
def guarded(monkeypatch):
    """torch.compile with all of its guards, and without a C++ compiler: the code that it would make is run as it is."""
    import torch._dynamo
    torch._dynamo.reset()
    monkeypatch.setattr(model, "compiled", cache(lambda function: torch.compile(function, backend="aot_eager")))
    with torch._dynamo.config.patch(error_on_recompile=False, fail_on_recompile_limit_hit=False):
        yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--solve_tasks", "probes", "--kl_coef", "0.1", "--checkpoint_layers",
                                        "--merge", "no", "--norm_lr", "0.001"]], ids=" ".join)
def test_nothing_is_compiled_after_the_first_step(guarded, flags, tmp_path, monkeypatch):
    """A whole run: seeding, proposals, probes, updates, evaluations with the adapter and without."""
    from torch._dynamo.utils import counters
    monkeypatch.chdir(tmp_path)
    compiled, original = [], train.train_step

    def step(run):
        compiled.append(counters["stats"]["unique_graphs"])
        return original(run)
    monkeypatch.setattr(train, "train_step", step)
    train.main([*TINY, "--steps", "3", "--name", "a", "--require", "weak", "--eval_every", "2", "--compile",
                "--debug_compile", *flags])
    compiled.append(counters["stats"]["unique_graphs"])
    assert 0 < compiled[1] == compiled[2] == compiled[3], "the same after the first, the second and the third step"
    assert (tmp_path / "runs" / "a" / "heldout.md").is_file()
    assert torch._dynamo.config.error_on_recompile
    with pytest.raises(torch._dynamo.exc.RecompileError):  # what another type of numbers would need
        wide, ids = torch.zeros(3, 5, dtype=torch.float64), torch.zeros(3, dtype=torch.long)
        model.compiled(model.logit_slopes)(wide, ids, 1.0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: make cuda")
def test_a_whole_run_on_cuda_compiles_nothing_after_its_first_step(tmp_path):
    done = run_train(tmp_path, *TINY, "--device", "cuda", "--steps", "3", "--eval_every", "2", "--debug_compile",
                     "--require", "weak", "--name", "a")
    assert done.returncode == 0 and (tmp_path / "runs" / "a" / "heldout.md").is_file(), done.stderr


# ---- bad input: one line, non-zero, nothing lost ------------------------------------------------------------------

def fails(folder: Path, *flags: str, says: str, hides: str = "Traceback", **options) -> None:
    done = run_train(folder, *flags, **options)
    errors = done.stderr.strip().splitlines()
    assert done.returncode != 0
    assert errors and errors[-1].startswith("train.py: ") and says in errors[-1], done.stderr
    assert "Traceback" not in done.stderr and hides not in errors[-1]


def test_a_hub_name_without_network_a_missing_folder_and_an_unsupported_model(tmp_path, tiny, monkeypatch, capsys):
    fails(tmp_path, *TINY, "--model", "Qwen/Qwen2.5-Coder-3B", "--name", "hub", says="--preset nano")
    monkeypatch.chdir(tmp_path)
    config = Path(tiny()) / "config.json"
    config.write_text(config.read_text().replace('"qwen2"', '"gpt2"'))
    for folder, says in (("./nowhere", "no such folder"), (str(config.parent), "supported families")):
        assert train.run_main([*TINY, "--model", folder, "--name", "a"]) != 0
        errors = capsys.readouterr().err
        assert errors.strip().splitlines()[-1].startswith("train.py: ") and says in errors.splitlines()[-1]
        assert "Traceback" not in errors
    assert not any((tmp_path / "runs").iterdir()), "the names stay free"


def test_a_run_folder_is_never_overwritten_and_never_used_twice(whole, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(whole.parent.parent)
    assert train.run_main([*TINY, "--name", "a"]) != 0
    assert "exists already" in capsys.readouterr().err
    _, lock = runfolder.open_folder(parse(["--resume", "runs/a"])[0])
    with lock:
        fails(whole.parent.parent, "--resume", "runs/a", says="in use")
    (tmp_path / "config.json").write_text("[]")  # somebody else's
    for other in ("runs/none", str(tmp_path)):
        assert train.run_main(["--resume", other]) != 0
        assert "not a run folder" in capsys.readouterr().err
    assert train.run_main(["--resume", "runs/a", "--lr", "1"]) != 0
    assert "--lr cannot change" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named_with_the_way_on(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "runs" / "a")
    weights = folder / "checkpoint" / "policy" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    fails(tmp_path, "--resume", "runs/a", says="damaged (policy/adapter_model.safetensors)", hides="whole")
    shutil.rmtree(folder / "checkpoint")  # as the line says
    done = run_train(tmp_path, "--resume", "runs/a")
    assert done.returncode == 0, done.stderr
    same_run(whole, folder)


# The logs do not fit; the checkpoint does not fit.
@pytest.mark.parametrize("limit_bytes", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_full_disk_loses_the_current_step_only_and_more_steps_go_on(whole, tmp_path, limit_bytes):
    """A limit on file size stands in for a full disk: the kernel refuses the write in the middle."""
    folder = shutil.copytree(whole, tmp_path / "runs" / "a")
    fails(tmp_path, "--resume", "runs/a", "--steps", "4", says="--resume", limit_bytes=limit_bytes)
    state = json.loads((folder / "checkpoint" / "state.json").read_text())
    assert state["step"] == 3 and runfolder.find_checkpoint(folder) == folder / "checkpoint"
    if limit_bytes == 100_000:
        assert run_train(tmp_path, "--resume", "runs/a", "--steps", "4").returncode == 0
        assert [line["step"] for line in metrics_of(folder)] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_a_full_disk_at_the_first_checkpoint_keeps_the_folder(tmp_path):
    fails(tmp_path, *TINY, "--steps", "1", "--name", "a", says="it is the first one", limit_bytes=60_000)
    assert (tmp_path / "runs" / "a" / "samples.jsonl").stat().st_size > 0
    assert run_train(tmp_path, "--resume", "runs/a").returncode == 0
    assert [line["step"] for line in metrics_of(tmp_path / "runs" / "a")] == [0, 1]


def test_logs_hold_what_the_checkpoint_counts_and_a_removed_one_is_begun_anew(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("x" * 10)
    (tmp_path / "evaluations.jsonl").write_text('{"step": 0}\n{"st')
    log = runfolder.Log(tmp_path, -1, [5, 300, 12])
    log.metrics({"step": 1, "grad_norm": float("nan")})
    log.evaluation({"step": 1})
    assert log.sync()[1] == 0
    assert (tmp_path / "metrics.jsonl").read_text() == 'xxxxx{"step": 1, "grad_norm": null}\n'
    assert (tmp_path / "samples.jsonl").read_text() == ""
    assert (tmp_path / "evaluations.jsonl").read_text() == '{"step": 0}\n{"step": 1}\n'  # the rest is cut


def test_resume_keeps_its_own_flags(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "a")
    cfg, _ = parse(["--resume", str(folder), "--steps", "9", "--slots", "7"])
    runfolder.open_folder(cfg)[1].close()
    again, _ = parse(["--resume", str(folder)])
    assert (again.steps, again.slots, again.resume) == (9, 7, str(folder))


def test_a_run_ends_with_its_budget_and_its_evaluation(whole, tmp_path, capsys, monkeypatch):
    """After one step more, where the tokens are used up, and not again on resume; then after another, where the time
    is."""
    folder = shutil.copytree(whole, tmp_path / "a")
    monkeypatch.setattr(train, "write_report", lambda run: None)
    made = sum(line.get("tokens_generated", 0) for line in metrics_of(folder))
    for step, budget in ((4, ["--budget_tokens", str(made + 1)]), (4, ["--budget_tokens", str(made + 1)]),
                         (5, ["--budget_tokens", "0", "--budget_s", "1"])):
        assert train.run_main(["--resume", str(folder), "--steps", "9", "--eval_every", "100", *budget]) == 0, \
            capsys.readouterr().err
        assert [line["step"] for line in metrics_of(folder)] == list(range(step + 1))
        assert json.loads((folder / "checkpoint" / "state.json").read_text())["step"] == step
        last = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])
        assert last["step"] == step and len(last["heldout"]["strict"]) == len(last["heldout"]["lenient"]) == 6
        assert "heldout" in metrics_of(folder)[-1] and "heldout" not in metrics_of(folder)[1]


def test_form_and_lengths_that_go_wrong_are_told(tmp_path):
    cfg = Config(model="some")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": step, "length/solve/deduction": length}) + "\n"
                                                    for step, length in ((0, None), (1, 90.0), (2, 110.0))))
    first = runfolder.first_lengths(tmp_path)
    assert first == {"length/solve/deduction": 100.0}

    def told(**metrics) -> set[str]:
        healthy = {"step": 6, "length/solve/deduction": 50.0, "bad_format/solve/deduction": 0.4,
                   "bad_format/solve/abduction": 0.5, "bad_format/propose/deduction": None, "mixed/deduction": 0.1,
                   "zero_advantage/solve/deduction": 0.5}
        return {key for key, _ in runfolder.step_warnings(healthy | metrics, cfg, first)}
    assert told() == set()
    assert told(**{"bad_format/solve/deduction": 0.6}) == {"form/solve"}
    assert told(**{"mixed/deduction": 0.0}) == {"mixed"}
    fell = {"heldout_by_type": {"deduction": [0.2, 0.1, 0.3]}, "heldout_change": {"deduction": [-0.25, -0.3, -0.2]}}
    assert told(**fell) == {"heldout_change/deduction"}
    assert not told(**fell | {"heldout_change": {"deduction": [-0.05, -0.1, 0.02]}})
    assert told(**{"length/solve/deduction": 20.0}) == {"short/length/solve/deduction"}
    assert told(**{"step": 5, "mixed/deduction": None, "length/solve/deduction": 20.0}) == set()


def test_interrupt_leaves_no_process_and_a_whole_checkpoint(tmp_path):
    process = subprocess.Popen([sys.executable, str(ROOT / "train.py"), *TINY, "--steps", "50", "--name", "a"], cwd=tmp_path,
                               env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)
    for line in process.stdout:
        if line.startswith("step    1"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in err and "Traceback" not in err
    assert runfolder.find_checkpoint(tmp_path / "runs" / "a") is not None


# ---- what a run needs, and what it leaves alone ---------------------------------------------------------------------

ROWS = {  # rows of a task file, and what is said of the bad ones
    "good": ('{"type": "deduction", "program": "def f(x):\\n    return x + 1", "inputs": ["1"], "outputs": ["2"]}', ""),
    "false": ('{"type": "deduction", "program": "def f(x):\\n    return x + 1", "inputs": ["1"], "outputs": ["3"]}',
              "f(1) is 2, not 3"),
    "one of three is false": ('{"type": "induction", "program": "def f(x):\\n    return x", "message": "", "inputs":'
                              ' ["1", "2", "3"], "outputs": ["1", "2", "4"]}', "f(3) is 3, not 4"),
    "undefined": ('{"type": "abduction", "program": "def f(x):\\n    return y", "inputs": ["1"], "outputs": ["2"]}',
                  "the gate says: error"),
    "import": ('{"type": "deduction", "program": "import os\\ndef f(x):\\n    return 2", "inputs": ["1"], "outputs":'
               ' ["2"]}', "import not allowed"),
    "random": ('{"type": "deduction", "program": "import random\\ndef f(x):\\n    return random.random()", "inputs":'
               ' ["1"], "outputs": ["2"]}', "the gate says"),
    "a text of inputs": ('{"type": "deduction", "program": "def f(x):\\n    return 2", "inputs": "1", "outputs": ["2"]}',
                         "inputs and outputs are lists"),
    "fence": (json.dumps({"type": "deduction", "program": "def f(x):\n    return '```'", "inputs": ["1"],
                          "outputs": ["'```'"]}), "fence"),
}


def reader(executor):
    return SimpleNamespace(executor=executor, style=SimpleNamespace(markers=()))


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_a_task_file_passes_the_gate(name, tmp_path, executor):
    (good, _), (row, says) = ROWS["good"], ROWS[name]
    (tmp_path / "tasks.jsonl").write_text(f"{good}\n{row}\n")
    if not says:
        assert len(train.read_tasks(reader(executor), str(tmp_path / "tasks.jsonl"))) == 2
        return
    with pytest.raises(train.UserError, match="line 2: not a (valid )?task") as told:
        train.read_tasks(reader(executor), str(tmp_path / "tasks.jsonl"))
    assert says in str(told.value) and "\n" not in str(told.value)


def test_a_task_file_without_tasks_is_refused(tmp_path, executor):
    (tmp_path / "tasks.jsonl").write_text("")
    with pytest.raises(train.UserError, match="no tasks in it"):
        train.read_tasks(reader(executor), str(tmp_path / "tasks.jsonl"))


def test_a_start_that_fails_leaves_no_folder_and_a_resume_that_fails_no_trace(whole, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "false.jsonl").write_text(ROWS["false"][0])
    for flags in (["--seed_tasks", "false.jsonl"], ["--heldout_tasks", "false.jsonl"], ["--max_prompt_tokens", "9"],
                  ["--max_new_tokens", "5000"], ["--eval_every", "1", "--eval_tasks", "bogus"]):
        assert train.run_main([*TINY, "--name", "a", *flags]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not (tmp_path / "runs" / "a").exists()
    folder = shutil.copytree(whole, tmp_path / "runs" / "a")
    before = (folder / "config.json").read_text()
    assert train.run_main(["--resume", "runs/a", "--steps", "9", "--model", "./nowhere"]) == 2
    told = capsys.readouterr().err  # the way on is another --model, and not the same command once more
    assert "no such folder" in told and "--resume" not in told and (folder / "config.json").read_text() == before


def test_a_run_that_has_ended_keeps_its_results(whole, tmp_path, capsys):
    folder = shutil.copytree(whole, tmp_path / "a")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert train.run_main(["--resume", str(folder), "--eval_limit", "3", "--model", "nowhere"]) == 0
    assert "has ended" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_goes_on_in_another_place_without_the_files_it_no_longer_needs(whole, tmp_path, capsys, monkeypatch):
    for name in ("there", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "there")
    monkeypatch.setattr(train, "write_report", lambda run: None)
    rows = (ROOT / "nano" / "heldout.jsonl").read_text().splitlines(keepends=True)
    Path("held.jsonl").write_text("".join(rows[:12]))
    Path("seeds.jsonl").write_text("".join(rows[300:600]))
    shutil.copytree(ROOT / "nano", "base", ignore=shutil.ignore_patterns("*.py", "heldout.jsonl", "__pycache__"))
    assert train.run_main([*TINY, "--model", "base", "--heldout_tasks", "held.jsonl", "--seed_tasks", "seeds.jsonl",
                           "--propose_from", "./seeds.jsonl", "--heldout_fraction", "0", "--steps", "1", "--name",
                           "a"]) == 0, capsys.readouterr().err
    saved = json.loads(Path("runs/a/config.json").read_text())
    for name in ("model", "heldout_tasks", "seed_tasks", "propose_from"):
        assert Path(saved[name]).is_absolute() and Path(saved[name]).exists()
    Path("seeds.jsonl").unlink()
    Path("held.jsonl").rename("kept.jsonl")
    Path("base").rename("moved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    go_on = ["--resume", "../there/runs/a", "--steps", "2"]
    assert train.run_main(go_on) == 2 and "no such folder" in capsys.readouterr().err
    assert train.run_main([*go_on, "--model", "../there/moved"]) == 2 and "--heldout_tasks" in capsys.readouterr().err
    assert train.run_main([*go_on, "--model", "../there/moved", "--heldout_tasks", "../there/kept.jsonl"]) == 0
    folder = tmp_path / "there" / "runs" / "a"
    assert metrics_of(folder)[-1]["step"] == 2 and (folder / "heldout.old.md").exists()
    assert all(row["text"] == "" for row in map(json.loads, (folder / "samples.jsonl").read_text().splitlines())
               if row["kind"] == "propose")


def test_a_file_system_without_locks_is_told(whole, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "a")

    def no_locks(*_):
        raise OSError(95, "Operation not supported")
    monkeypatch.setattr(runfolder.fcntl, "flock", no_locks)
    runfolder.open_folder(parse(["--resume", str(folder)])[0])[1].close()
    assert "no lock" in capsys.readouterr().out


def test_how_a_run_goes_on_is_told_as_it_is(tmp_path):
    assert runfolder.way_on(tmp_path / "a") == "nothing was begun"
    (tmp_path / "a").mkdir()
    assert runfolder.way_on(tmp_path / "a").startswith("no step was saved yet: go on with python train.py --resume ")
    (tmp_path / "a" / "checkpoint").mkdir()
    assert runfolder.way_on(tmp_path / "a").endswith(f"what was saved is whole: go on with python train.py --resume"
                                                     f" {tmp_path / 'a'}")
    runfolder.remove_if_empty(tmp_path / "a")
    assert (tmp_path / "a").exists(), "no response is kept with --keep_samples 0, but there is a checkpoint"
    (tmp_path / "a" / "checkpoint").rmdir()
    runfolder.remove_if_empty(tmp_path / "a")
    assert not (tmp_path / "a").exists()

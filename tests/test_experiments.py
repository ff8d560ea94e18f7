"""experiments/: statistics against closed forms and brute force, and a whole experiment in small."""
import itertools
import json
import math
import random
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import tasks
from benchmarks import stats
from config import UserError
from experiments import __main__ as command
from experiments import arms, results, work

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("n, correct", [(1, 0), (1, 1), (6, 0), (6, 2), (6, 5), (6, 6)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(n, correct):
    answers = [True] * correct + [False] * (n - correct)
    for k in range(1, n + 1):
        subsets = list(itertools.combinations(answers, k))
        assert stats.pass_at_k(n, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def task(number: int, type: str = "deduction") -> dict:
    return {"type": type, "program": f"def f(x):\n    x = x + {number}\n    return x"}


def test_interval_over_independent_tasks_is_the_usual_one():
    rng = random.Random(0)
    heldout, values = [task(i) for i in range(50)], [rng.random() for _ in range(50)]
    cells = results.cells_of(heldout, (1,))
    wanted = 1.96 * statistics.pstdev(values) / math.sqrt(50)
    assert results.half_width([values], heldout, cells) == pytest.approx(wanted)


def test_interval_knows_that_tasks_of_one_program_are_not_independent():
    rng = random.Random(0)
    values = [rng.random() for _ in range(50)]
    once, thrice = [task(i) for i in range(50)], [task(i // 3) for i in range(150)]
    width = results.half_width([values], once, results.cells_of(once, (1,)))
    copies = [values[i // 3] for i in range(150)]
    assert results.half_width([copies], thrice, results.cells_of(thrice, (1,))) == pytest.approx(width)


@pytest.mark.quick
def test_interval_over_seeds_is_students():
    heldout = [task(i) for i in range(10)]
    cells = results.cells_of(heldout, (1,))
    seeds = [[value] * 10 for value in (0.1, 0.2, 0.4)]  # no spread over tasks
    assert results.half_width(seeds, heldout, cells) == pytest.approx(
        4.303 * statistics.stdev([0.1, 0.2, 0.4]) / math.sqrt(3))


@pytest.mark.quick
def test_cells_weigh_the_same_whatever_their_size():
    heldout = [task(0)] + [task(i, "induction") for i in range(9)]
    assert results.average([1.0] + [0.0] * 9, results.cells_of(heldout, (1, 2, 3))) == 0.5


def test_task_file_holds_no_heldout_program(tmp_path, executor):
    path = tmp_path / "deep" / "tasks.jsonl"
    work.write_task_file(path, 30, 0)
    drawn = tasks.load_tasks(str(path), executor)
    assert len(drawn) == 90 and not any(tasks.is_heldout(task.key, 0.05) for task in drawn)


PLAN = arms.Plan("learns", seeds=1, steps=60, arms=("azr",), preset="nano", eval_every=30, limit=48, jobs=1)


def test_runs_that_may_not_be_compared_have_other_names():
    folders = [arms.run_folder(replace(PLAN, name=name, steps=steps), arm, seed) for steps in (10, 60)
               for name, of_name in arms.EXPERIMENTS.items() for arm in of_name for seed in (0, 1)]
    assert len(set(folders)) == len(folders) and all(folder.parent == Path("runs") for folder in folders)


def test_what_is_left_of_an_arm_is_done_and_no_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / arms.run_folder(PLAN, "azr", 0)
    start, scoring = arms.commands_left(PLAN, "azr", 0)
    assert "--propose_from" not in start and scoring[2:4] == ["score", str(folder.relative_to(tmp_path))]
    monkeypatch.setattr(arms, "last_step", lambda folder: 30)
    (resume, _) = arms.commands_left(PLAN, "azr", 0)
    assert resume[:2] == [str(ROOT / "train.py"), "--resume"]
    monkeypatch.setattr(arms, "last_step", lambda folder: 60)
    assert len(arms.commands_left(PLAN, "azr", 0)) == 1
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text('{"limit": 48}')
    assert arms.commands_left(PLAN, "azr", 0) == []
    assert len(arms.commands_left(replace(PLAN, limit=2400), "azr", 0)) == 1
    monkeypatch.setattr(arms, "last_step", lambda folder: 30)
    assert len(arms.commands_left(PLAN, "azr", 0)) == 2  # trained further: old scores are of another policy


def test_runs_of_other_weights_are_other_runs(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "nano", tmp_path / "nano")
    monkeypatch.setitem(arms.PRESETS, "nano", arms.PRESETS["nano"] | {
        "model": str(tmp_path / "nano"), "heldout_tasks": str(tmp_path / "nano" / "heldout.jsonl")})
    names = []
    for changed in (None, "model.safetensors", "heldout.jsonl"):
        if changed:
            with open(tmp_path / "nano" / changed, "ab") as file:
                file.write(b" ")
        arms.subject.cache_clear()
        names.append((arms.run_folder(PLAN, "azr", 0), arms.start_folder(PLAN), arms.grammar_file(PLAN, 0)))
    arms.subject.cache_clear()
    assert all(len(set(kind)) == 3 for kind in zip(*names))


def test_arms_are_compared_over_the_seeds_that_both_have(tmp_path, monkeypatch):
    """Ahead is AZR minus the arm; every seed that is there counts; an interval of one seed stands in brackets."""
    monkeypatch.chdir(tmp_path)

    def scored(folder, greedy, sampled):
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text(json.dumps({"limit": 48, "commit": "c0ffee", "greedy": [greedy] * 48,
                                                        "sampled": [sampled] * 48, "pass": [32] * 48}))
        (folder / "metrics.jsonl").write_text('{"step": 1, "tokens_generated": 1, "tokens_trained": 1}\n')
    scored(tmp_path / arms.start_folder(PLAN), 0, 0)
    for arm, seeds, greedy, sampled in (("azr", (0, 1, 2), 0, 2), ("frozen proposer", (0, 1), 1, 1),
                                        ("grammar tasks", (2, 9), 1, 0)):
        for seed in seeds:
            scored(tmp_path / arms.run_folder(PLAN, arm, seed), greedy, sampled)
    everything = results.results_of(PLAN)
    frozen, grammar = (everything["arms"][arm]["measures"] for arm in ("frozen proposer", "grammar tasks"))
    assert (frozen["T1"]["azr_ahead"], frozen["greedy"]["azr_ahead"]) == (50, -100)
    assert frozen["T1"]["azr_ahead_seeds"] == [0, 1] and grammar["T1"]["azr_ahead_seeds"] == [2]
    assert everything["seeds"] == 3 and everything["arms"]["grammar tasks"]["seeds"] == [2, 9]
    heading, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]]
                         for line in results.results_table(everything).split("\n") if line.startswith("|")][:5]
    assert all(len(row) == len(heading) for row in rows)
    row = dict(zip(heading, rows[list(everything["arms"]).index("grammar tasks")]))
    assert row["gain"] == "+0.0 ± 0.0" and row["AZR ahead at T = 1"] == "(+100.0 ± 0.0)"
    assert row["AZR ahead, greedy"] == "(-100.0 ± 0.0)"


@pytest.mark.quick
def test_the_grammar_file_is_drawn_for_each_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what is left of runs is removed
    flags = [arms.commands_left(PLAN, "grammar tasks", seed)[0][-1] for seed in (0, 1)]
    assert flags[0] != flags[1] and all(flag.endswith(".jsonl") for flag in flags)


def test_an_arm_that_fails_ends_the_experiment(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = []

    def fail(plan, commands, folder):
        asked.append(folder.name)
        time.sleep(0.2)  # an arm takes longer than it takes to notice that the one before has failed
        raise UserError("it failed")
    monkeypatch.setattr(command, "run_commands", fail)
    assert command.main(["learns", "--arms", "azr", "--seeds", "9", "--jobs", "1"]) == 2
    assert "experiments: it failed" in capsys.readouterr().err and len(asked) < 9


def test_a_command_that_fails_is_told_with_its_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="its output is in run.log"):
        arms.run_commands(PLAN, [["-c", "import experiments, sys; sys.exit('as it was')"],
                                 ["-c", "open('later', 'w')"]], Path("run"))
    assert "as it was" in (tmp_path / "run.log").read_text() and not (tmp_path / "later").exists()


@pytest.mark.parametrize("flags, says", [
    (["--arms", "nobody"], "no arm called nobody; choose from: azr"), (["--seeds", "0"], "--seeds must be at least 1"),
    (["--limit", "11"], "at least 12"), (["--arms", "more warm start"], "add azr to --arms")])
def test_options_that_cannot_work_are_told(tmp_path, monkeypatch, capsys, flags, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        command.main(["learns", *flags])
    assert says in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_experiment_runs_goes_on_and_is_written(tmp_path):
    """Two steps of an arm and of the supervised control, results at the end; a second call has nothing left to do."""
    for path in ROOT.iterdir():
        if path.suffix == ".py" or path.is_dir() and path.name not in ("experiments", "results", "runs", ".git"):
            (tmp_path / path.name).symlink_to(path)
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")  # its results/ lie beside it

    def call(*more):
        return subprocess.run([sys.executable, "-m", "experiments", "learns", "--seeds", "1", "--steps", "2",
                               "--eval_every", "2", "--limit", "48", "--arms", "azr", "grammar tasks",
                               "more warm start", *more], cwd=tmp_path, capture_output=True, text=True)
    done = call()
    assert done.returncode == 0, done.stderr
    everything = json.loads((tmp_path / "runs" / "learns.json").read_text())
    assert not (tmp_path / "results").exists(), "nothing is published unless it is asked for"
    assert list(everything["arms"]) == ["azr", "grammar tasks", "more warm start"]
    azr = everything["arms"]["azr"]
    assert set(azr["measures"]["T1"]) == {"before", "after", "gain", "interval"} and azr["curves"][0]["T1"]
    assert everything["arms"]["grammar tasks"]["measures"]["T1"]["azr_ahead_interval"] > 0
    warm = everything["arms"]["more warm start"]["tokens"][0]
    assert warm["tokens_trained"] >= azr["tokens"][0]["tokens_trained"] > 0
    assert "| azr | 1 |" in (tmp_path / "runs" / "learns.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert call("--publish").returncode == 0
    assert "| azr | 1 |" in (tmp_path / "results" / "learns.md").read_text()
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}

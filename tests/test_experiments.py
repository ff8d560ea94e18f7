"""experiments.py: statistics against closed forms and brute force, and a whole experiment in small."""
import itertools
import json
import math
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import arms as experiments
from benchmarks import stats
import tasks

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
    cells = experiments.cells_of(heldout, (1,))
    wanted = 1.96 * statistics.pstdev(values) / math.sqrt(50)
    assert experiments.half_width([values], heldout, cells) == pytest.approx(wanted)


def test_interval_knows_that_tasks_of_one_program_are_not_independent():
    rng = random.Random(0)
    values = [rng.random() for _ in range(50)]
    once, thrice = [task(i) for i in range(50)], [task(i // 3) for i in range(150)]
    width = experiments.half_width([values], once, experiments.cells_of(once, (1,)))
    copies = [values[i // 3] for i in range(150)]
    assert experiments.half_width([copies], thrice, experiments.cells_of(thrice, (1,))) == pytest.approx(width)


def test_interval_over_seeds_is_students():
    heldout = [task(i) for i in range(10)]
    cells = experiments.cells_of(heldout, (1,))
    seeds = [[value] * 10 for value in (0.1, 0.2, 0.4)]  # no spread over tasks
    assert experiments.half_width(seeds, heldout, cells) == pytest.approx(
        4.303 * statistics.stdev([0.1, 0.2, 0.4]) / math.sqrt(3))


def test_cells_weigh_the_same_whatever_their_size():
    heldout = [task(0)] + [task(i, "induction") for i in range(9)]
    assert experiments.average([1.0] + [0.0] * 9, experiments.cells_of(heldout, (1, 2, 3))) == 0.5


def test_task_file_holds_no_heldout_program(tmp_path, executor):
    path = tmp_path / "deep" / "tasks.jsonl"
    experiments.write_task_file(path, 30, 0)
    found = tasks.load_tasks(str(path), executor)
    assert len(found) == 90 and not any(tasks.is_heldout(task.key, 0.05) for task in found)


def arguments(**changes) -> SimpleNamespace:
    return SimpleNamespace(**{"name": "learns", "preset": "nano", "steps": 60, "limit": 48, "seeds": 1,
                              "eval_every": 30} | changes)


def test_runs_that_may_not_be_compared_have_other_names():
    names = [experiments.run_name(arguments(name=name, steps=steps), arm, seed) for steps in (10, 60)
             for name, arms in experiments.EXPERIMENTS.items() for arm in arms for seed in (0, 1)]
    assert len(set(names)) == len(names) and all(Path(name).name == name for name in names)


def test_what_is_left_of_an_arm_is_done_and_no_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = arguments()
    folder = tmp_path / "runs" / experiments.run_name(args, "azr", 0)
    start, scoring = experiments.commands(args, "azr", 0)
    assert "--propose_from" not in start and scoring[2:4] == ["--score", str(folder.relative_to(tmp_path))]
    monkeypatch.setattr(experiments, "last_step", lambda folder: 30)
    (resume, _) = experiments.commands(args, "azr", 0)
    assert resume[:2] == ["train.py", "--resume"]
    monkeypatch.setattr(experiments, "last_step", lambda folder: 60)
    assert len(experiments.commands(args, "azr", 0)) == 1
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text('{"limit": 48}')
    assert experiments.commands(args, "azr", 0) == []
    assert len(experiments.commands(arguments(limit=2400), "azr", 0)) == 1
    monkeypatch.setattr(experiments, "last_step", lambda folder: 30)
    assert len(experiments.commands(args, "azr", 0)) == 2  # trained further: old scores are of another policy


def test_runs_of_other_weights_are_other_runs(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "nano", tmp_path / "nano")
    monkeypatch.setattr(experiments.train, "PRESETS", {"nano": experiments.train.PRESETS["nano"] | {
        "model": str(tmp_path / "nano"), "heldout_tasks": str(tmp_path / "nano" / "heldout.jsonl")}})
    names = []
    for changed in (None, "model.safetensors", "heldout.jsonl"):
        if changed:
            with open(tmp_path / "nano" / changed, "ab") as file:
                file.write(b" ")
        experiments.subject.cache_clear()
        names.append((experiments.run_name(arguments(), "azr", 0), experiments.start_folder(arguments()),
                      experiments.grammar_file(arguments(), 0)))
    experiments.subject.cache_clear()
    assert all(len(set(kind)) == 3 for kind in zip(*names))


def test_arms_are_compared_over_the_seeds_that_both_have(tmp_path, monkeypatch):
    """Ahead is AZR minus the arm; every seed that is there counts; an interval of one seed stands in brackets."""
    monkeypatch.chdir(tmp_path)
    args = arguments()

    def scored(folder, greedy, sampled):
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text(json.dumps({"limit": 48, "commit": "c0ffee", "greedy": [greedy] * 48,
                                                        "sampled": [sampled] * 48, "pass": [32] * 48}))
        (folder / "metrics.jsonl").write_text('{"step": 1, "tokens_generated": 1, "tokens_trained": 1}\n')
    scored(tmp_path / experiments.start_folder(args), 0, 0)
    for arm, seeds, greedy, sampled in (("azr", (0, 1, 2), 0, 2), ("frozen proposer", (0, 1), 1, 1),
                                        ("grammar tasks", (2, 9), 1, 0)):
        for seed in seeds:
            scored(tmp_path / "runs" / experiments.run_name(args, arm, seed), greedy, sampled)
    found = experiments.figures(args)
    frozen, grammar = (found["arms"][arm]["measures"] for arm in ("frozen proposer", "grammar tasks"))
    assert (frozen["T1"]["azr_ahead"], frozen["greedy"]["azr_ahead"]) == (50, -100)
    assert frozen["T1"]["azr_ahead_seeds"] == [0, 1] and grammar["T1"]["azr_ahead_seeds"] == [2]
    assert found["seeds"] == 3 and found["arms"]["grammar tasks"]["seeds"] == [2, 9]
    heading, _, *rows = [line.split("|")[1:-1] for line in experiments.table(found).split("\n")
                         if line.startswith("|")][:5]
    assert all(len(row) == len(heading) for row in rows)
    row = {name.strip(): cell.strip() for name, cell in zip(heading, rows[list(found["arms"]).index("grammar tasks")])}
    assert row["gain"] == "+0.0 ± 0.0" and row["AZR ahead at T = 1"] == "(+100.0 ± 0.0)"
    assert row["AZR ahead, greedy"] == "(-100.0 ± 0.0)"


def test_the_grammar_file_is_drawn_for_each_seed():
    flags = [experiments.commands(arguments(), "grammar tasks", seed)[0][-1] for seed in (0, 1)]
    assert flags[0] != flags[1] and all(flag.endswith(".jsonl") for flag in flags)


def test_an_arm_that_fails_ends_the_experiment(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = []

    def fail(args, commands, log):
        asked.append(log.stem)
        time.sleep(0.2)  # an arm takes longer than it takes to notice that the one before has failed
        raise SystemExit("experiments.py: it failed")
    monkeypatch.setattr(experiments, "run_commands", fail)
    monkeypatch.setattr(sys, "argv", ["experiments.py", "learns", "--arms", "azr", "--seeds", "9", "--jobs", "1"])
    with pytest.raises(SystemExit, match="it failed"):
        experiments.main()
    assert len(asked) < 9


def test_an_unknown_arm_is_told(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "experiments.py", "learns", "--arms", "nobody"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 2 and "no arm called nobody; choose from: azr" in done.stderr


@pytest.mark.slow
def test_a_small_experiment_runs_goes_on_and_is_written(tmp_path):
    """Two steps of an arm and of the supervised control, results at the end; a second call has nothing left to do."""
    for file in [*ROOT.glob("*.py"), ROOT / "nano"]:
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "experiments.py").unlink()
    (tmp_path / "experiments.py").write_text((ROOT / "experiments.py").read_text())  # its results/ lie beside it

    def call():
        return subprocess.run([sys.executable, "experiments.py", "learns", "--seeds", "1", "--steps", "2",
                               "--eval_every", "2", "--limit", "48", "--arms", "azr", "grammar tasks", "more warm start"], cwd=tmp_path,
                              capture_output=True, text=True)
    done = call()
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results" / "learns.json").read_text())
    assert list(found["arms"]) == ["azr", "grammar tasks", "more warm start"]
    azr = found["arms"]["azr"]
    assert set(azr["measures"]["T1"]) == {"before", "after", "gain", "interval"} and azr["curves"][0]["T1"]
    assert found["arms"]["grammar tasks"]["measures"]["T1"]["azr_ahead_interval"] > 0
    warm = found["arms"]["more warm start"]["tokens"][0]
    assert warm["tokens_trained"] >= azr["tokens"][0]["tokens_trained"] > 0
    assert "| azr | 1 |" in (tmp_path / "results" / "learns.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert call().returncode == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}

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

import runfolder
import tasks
from benchmarks import stats
from config import UserError
from executor import Job
from experiments import __main__ as command
from experiments import arms, plots, results, work
from nano import make

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
    cells = results.cells_of(heldout)
    wanted = 1.96 * statistics.stdev(values) / math.sqrt(50)
    assert results.half_width([values], heldout, cells) == pytest.approx(wanted)


def test_interval_knows_that_tasks_of_one_program_are_not_independent():
    rng = random.Random(0)
    values = [rng.random() for _ in range(50)]
    once, thrice = [task(i) for i in range(50)], [task(i // 3) for i in range(150)]
    width = results.half_width([values], once, results.cells_of(once))
    copies = [values[i // 3] for i in range(150)]
    assert results.half_width([copies], thrice, results.cells_of(thrice)) == pytest.approx(width)


@pytest.mark.quick
def test_interval_over_seeds_is_students():
    heldout = [task(i) for i in range(10)]
    cells = results.cells_of(heldout)
    seeds = [[value] * 10 for value in (0.1, 0.2, 0.4)]  # no spread over tasks
    assert results.half_width(seeds, heldout, cells) == pytest.approx(
        4.303 * statistics.stdev([0.1, 0.2, 0.4]) / math.sqrt(3))


@pytest.mark.quick
def test_cells_weigh_the_same_whatever_their_size():
    heldout = [task(0)] + [task(i, "induction") for i in range(9)]
    assert results.average([1.0] + [0.0] * 9, results.cells_of(heldout)) == 0.5


def test_cells_are_of_a_type_a_group_and_a_depth():
    heldout = [task(0) | {"group": "dose 1%"}, task(1), task(1, "induction") | {"group": "dose 1%"}]
    assert results.cells_of(heldout) == {("deduction", "dose 1%", 1): [0], ("deduction", "", 1): [1],
                                         ("induction", "dose 1%", 1): [2]}
    assert results.cells_of(heldout, "deduction", ("dose 1%",)) == {("deduction", "dose 1%", 1): [0]}


@pytest.mark.parametrize("kind", ["grammar", "even"])
def test_a_pool_of_the_grammar_holds_true_tasks_on_no_held_out_program(kind, tmp_path, executor):
    path = tmp_path / "deep" / "tasks.jsonl"
    work.write_pool(path, kind, 30, 0, [])
    drawn = tasks.load_tasks(str(path), executor)
    assert len({task.id for task in drawn}) == 90 and not any(tasks.is_heldout(task.key, 0.05) for task in drawn)
    runs = executor.run([Job(task.program, task.inputs) for task in drawn])
    assert [tuple(run.value for run in of_task) for of_task in runs] == [task.outputs for task in drawn]
    assert kind == "grammar" or all(len(make.families_in(task.program)) == 1 for task in drawn)


def run_that_proposed(folder: Path, steps: int, per_step: int) -> None:
    """A run folder whose buffers hold this many tasks of each type from every step: first a statement, later two."""
    numbers, buffers = itertools.count(), tasks.Buffers(10_000)
    for step in range(steps + 1):
        for name in make.TYPES:
            for _ in range(per_step):
                number = next(numbers)
                buffers.add(tasks.Task(name, f"def f(x):\n    x = [{number}] + x + [1]\n    return x",
                                       (([1],),), ([1],), step=step, key=f"{number}", depth=1 + (step > steps / 2)))
    (folder / "checkpoint").mkdir(parents=True)
    state = folder / "checkpoint" / "state.json"
    state.write_text(json.dumps({"step": steps, "sizes": [0, 0], "buffers": buffers.to_json()}))
    (folder / "checkpoint" / "checksums.json").write_text(json.dumps({"state.json": runfolder.sha256_of(state)}))


def test_pools_of_a_run_are_of_their_steps_and_of_one_size(tmp_path):
    run_that_proposed(tmp_path / "run", 6, 4)
    run_that_proposed(tmp_path / "frozen", 6, 7)
    runs = [tmp_path / "run", tmp_path / "frozen"]
    for kind, steps, depth in (("early", {1, 2}, 1), ("late", {5, 6}, 2), ("matched", {0}, 2)):
        work.write_pool(tmp_path / f"{kind}.jsonl", kind, 7, 0, runs)
        lines = [json.loads(line) for line in (tmp_path / f"{kind}.jsonl").read_text().splitlines()]
        assert [line["type"] for line in lines] == ["deduction"] * 7 + ["abduction"] * 7
        assert {line["step"] for line in lines} <= steps and len({json.dumps(line) for line in lines}) == 14
        if kind == "matched":
            assert all(make.families_in(line["program"]) == {"around"} for line in lines)
            assert all(len(make.statements_of(line["program"])) == depth for line in lines)
    work.write_pool(tmp_path / "frozen.jsonl", "frozen", 9, 0, runs)
    assert len((tmp_path / "frozen.jsonl").read_text().splitlines()) == 2 * 8, "as many as the least of the pools has"
    run_that_proposed(tmp_path / "nothing", 2, 0)
    with pytest.raises(UserError, match="has no valid deduction task for a pool: more --steps"):
        work.write_pool(tmp_path / "late.jsonl", "late", 9, 0, [tmp_path / "nothing", tmp_path / "frozen"])


def test_a_matched_pool_is_as_dull_as_the_one_that_it_matches(tmp_path):
    dull = tasks.identity_task(tasks.TYPES["deduction"])
    assert work.wishes_like(dull, random.Random(0)) == []
    twice = replace(dull, program="def f(x):\n    x = [1, 2] + x[1:]\n    return [3, 4] + x[1:]", depth=1)
    assert work.wishes_like(twice, random.Random(0)) == ["before", "before"]
    drawn = work.grammar_tasks("deduction", [[]] * 30, random.Random(0))
    assert len({task.id for task in drawn}) == 30 and {task.key for task in drawn} == {dull.key}


def test_what_a_run_proposed_is_told_by_ten_steps(tmp_path, executor):
    run_that_proposed(tmp_path / "run", 24, 4)
    first, second, last = work.proposals_of(tmp_path / "run", executor)
    assert (first["tasks"], second["tasks"], last["tasks"]) == (80, 80, 32) and (first["depth"], last["depth"]) == (1, 2)
    assert first["families"] == {family: float(family == "around") for family in make.FAMILIES}
    assert first["any"] == first["distinct"] == first["behaviours"] == first["form"] == last["form"] == 1


def test_a_behaviour_is_what_a_program_does_whatever_it_says(tmp_path, executor):
    programs = [f"def f(x):\n    return {text}" for text in ("x", "x[:]", "x + x[:0]", "x * 2", "x + x")]
    same, copied, joined, twice, added = map(work.behaviours_of(set(programs), executor).get, programs)
    assert copied == joined and twice == added and len({same, copied, twice}) == 3, "a number has no first part"


def test_tasks_on_longer_strings_are_counted_by_length(executor):
    longer = work.longer_tasks(executor)
    assert all(eval(task.program.split("\n")[1].strip()[4:], {"x": task.inputs[0][0]}) == task.outputs[0]
               for task in longer), "the grammar's own statements"
    assert [len(task.inputs[0][0]) for task in longer] == [letters for letters in arms.LETTERS for _ in range(70)]
    turned = [int("[::-1]" in task.program) for task in longer]
    assert work.by_length(turned) == [[100 / 7, 100.0]] * len(arms.LETTERS)
    assert work.by_length([0] * 420 + [9] * 70) == [[0, 0]] * 6 + [[100, 100]]


PLAN = arms.Plan("learns", seeds=1, steps=60, arms=("self-play",), model=str(ROOT / "nano"), eval_every=30,
                 limit=84, jobs=1)


def test_runs_that_may_not_be_compared_have_other_names_and_an_arm_has_one_in_all_experiments():
    names = {arm for of_name in arms.EXPERIMENTS.values() for arm in of_name}
    folders = {arms.run_folder(replace(PLAN, name=name, steps=steps), arm, seed) for steps in (10, 60)
               for name, of_name in arms.EXPERIMENTS.items() for arm in of_name for seed in (0, 1)}
    assert len(folders) == 2 * 2 * len(names) and all(folder.parent == Path("runs") for folder in folders)
    for of_name in arms.EXPERIMENTS.values():
        assert all(arms.flags_of(arm) == flags for arm, flags in of_name.items())


def test_what_is_left_of_an_arm_is_done_and_no_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / arms.run_folder(PLAN, "self-play", 0)
    start, scoring = arms.commands_left(PLAN, "self-play", 0)
    assert "--propose_from" not in start and scoring[2:4] == ["score", str(folder.relative_to(tmp_path))]
    monkeypatch.setattr(arms, "last_step", lambda folder: 30)
    (resume, _) = arms.commands_left(PLAN, "self-play", 0)
    assert resume[:2] == [str(ROOT / "train.py"), "--resume"]
    monkeypatch.setattr(arms, "last_step", lambda folder: 60)
    assert len(arms.commands_left(PLAN, "self-play", 0)) == 1
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text('{"limit": 84}')
    assert arms.commands_left(PLAN, "self-play", 0) == []
    assert len(arms.commands_left(replace(PLAN, limit=2400), "self-play", 0)) == 1
    monkeypatch.setattr(arms, "last_step", lambda folder: 30)
    assert len(arms.commands_left(PLAN, "self-play", 0)) == 2  # trained further: old scores are of another policy


def test_runs_of_other_weights_are_other_runs(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "nano", tmp_path / "nano")
    plan, names = replace(PLAN, model=str(tmp_path / "nano")), []
    for changed in (None, "model.safetensors", "heldout.jsonl"):
        if changed:
            with open(tmp_path / "nano" / changed, "ab") as file:
                file.write(b" ")
        arms.subject.cache_clear()
        names.append((arms.run_folder(plan, "self-play", 0), arms.start_folder(plan), arms.pool_file(plan, "EVEN", 0)))
    arms.subject.cache_clear()
    assert all(len(set(kind)) == 3 for kind in zip(*names))


def test_arms_are_compared_over_the_seeds_that_both_have(tmp_path, monkeypatch):
    """Ahead is self-play minus the arm; every seed that is there counts; an interval of one seed stands in brackets."""
    monkeypatch.chdir(tmp_path)

    def scored(folder, greedy, sampled, **more):
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text(json.dumps({"limit": 84, "commit": "c0ffee", "greedy": [greedy] * 84,
                                                        "sampled": [sampled] * 84, "pass": [32] * 84,
                                                        "longer": [[50, 25]] * 7} | more))
        (folder / "metrics.jsonl").write_text('{"step": 1, "tokens_generated": 1, "tokens_trained": 1}\n')
    scored(tmp_path / arms.start_folder(PLAN), 0, 0, free=[1, 0] * 42, free_how="asked kindly",
           longer_pass=[[75, 99]] * 7)
    for arm, seeds, greedy, sampled in (("self-play", (0, 1, 2), 0, 1), ("frozen proposer", (0, 1), 1, 0),
                                        ("grammar", (2, 9), 1, 1)):
        for seed in seeds:
            scored(tmp_path / arms.run_folder(PLAN, arm, seed), greedy, sampled)
    everything = results.results_of(PLAN)
    frozen, grammar = (everything["arms"][arm]["measures"] for arm in ("frozen proposer", "grammar"))
    assert (frozen["T1"]["ahead"], frozen["greedy"]["ahead"]) == (100, -100)
    assert frozen["T1"]["ahead_seeds"] == [0, 1] and grammar["T1"]["ahead_seeds"] == [2]
    assert everything["seeds"] == 3 and everything["arms"]["grammar"]["seeds"] == [2, 9]
    assert everything["free"]["greedy"]["gain"] == 50 and "asked kindly" in results.results_table(everything)
    heading, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]]
                         for line in results.results_table(everything).split("\n") if line.startswith("|")][:6]
    assert all(len(row) == len(heading) for row in rows)
    row = dict(zip(heading, rows[1 + list(everything["arms"]).index("grammar")]))
    assert row["gain"] == row["gain, dose 1%"] == "+100.0 ± 0.0" and row["gain at T = 1"] == "+100.0 ± 0.0"
    assert row["self-play ahead"] == row["self-play ahead, dose 3%, dose 10%, dose 30%"] == "(-100.0 ± 0.0)"
    assert "| before, one of 64 at T = 1 | 75 (99) |" in results.results_table(everything)
    assert results.results_table(everything | {"model": "runs/other"}).startswith(
        "`python -m experiments learns --model runs/other --steps 60")
    plots.plot(everything, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_curves_of_runs_are_told_and_drawn_whole(tmp_path):
    """Means over seeds of ten steps, seven rows at most, the first and the last among them; a plot of all."""
    proposed = [{"part": part, "tasks": 4, "families": {"around": 0.5}, "dull": 0.2, "depth": 1.5, "distinct": 1.0,
                 "behaviours": 0.75, "form": (part + 1) / 60} for part in range(60)]
    curves = {"learnability": [(step, step / 1000) for step in range(1, 601)], "greedy": [(0, 10), (20, 12)],
              "greedy dose 30%": [(0, 5), (20, 30)]}
    everything = {"groups": ["dose 30%"], "families": {"around": "dose 30%"},
                  "arms": {"self-play": {"proposed": [proposed, proposed[:59]], "curves": [curves, curves]},
                           "a fixed pool": {"proposed": [[]], "curves": [curves]}}}
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in results.steps_table(everything)
            if line.startswith("| self-play")]
    assert [row[1] for row in rows][::3] == ["1 to 10", "301 to 310", "591 to 600"] and len(rows) == 7
    assert rows[0][2:8] == ["-", "0.005", "-", "0.200", "0.750", "0.017"] and rows[-1][3][:4] == "0.59"
    plots.plot_over_steps(everything, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


@pytest.mark.quick
def test_the_grammar_file_is_drawn_for_each_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what is left of runs is removed
    for arm in ("grammar", "early", "matched"):
        made, trained, _ = zip(*(arms.commands_left(PLAN, arm, seed) for seed in (0, 1)))
        assert made[0][:3] == ["-m", "experiments.work", "pool"] and made[0][3] != made[1][3]
        assert [command[-1] for command in trained] == [command[3] for command in made]
        assert ("--run" in made[0]) == (arm != "grammar")


@pytest.mark.parametrize("asked, first", [("swap", ["self-play", "frozen proposer"]), ("learns", [])])
def test_arms_that_are_made_from_others_runs_come_after_them(asked, first, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    order = []
    monkeypatch.setattr(command, "run_commands", lambda plan, commands, folder: None)
    monkeypatch.setattr(command, "write_results", lambda plan: "")
    monkeypatch.setattr(command, "run_arm", lambda plan, arm, seed: order.append(arm))
    command.main([asked, "--seeds", "1", "--jobs", "1"])
    assert sorted(order) == sorted([*first, *arms.EXPERIMENTS[asked]])
    for arm in order:
        assert all(order.index(source) < order.index(arm) for source in arms.needs(arm))


def test_an_arm_that_fails_ends_the_experiment(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = []

    def fail(plan, commands, folder):
        asked.append(folder.name)
        time.sleep(0.2)  # an arm takes longer than it takes to notice that the one before has failed
        raise UserError("it failed")
    monkeypatch.setattr(command, "run_commands", fail)
    assert command.main(["learns", "--arms", "self-play", "--seeds", "9", "--jobs", "1"]) == 2
    assert "experiments: it failed" in capsys.readouterr().err and len(asked) < 9


def test_a_command_that_fails_is_told_with_its_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="its output is in run.log"):
        arms.run_commands(PLAN, [["-c", "import experiments, sys; sys.exit('as it was')"],
                                 ["-c", "open('later', 'w')"]], Path("run"))
    assert "as it was" in (tmp_path / "run.log").read_text() and not (tmp_path / "later").exists()


@pytest.mark.parametrize("flags, says", [
    (["--arms", "nobody"], "no arm called nobody; choose from: self-play"),
    (["--seeds", "0"], "--seeds must be at least 1"),
    (["--model", "nowhere"], "no heldout.jsonl or no weights"),
    (["--limit", "0"], "--limit must be at least 1"), (["--limit", "50"], "fewer than two tasks")])
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
                               "--eval_every", "2", "--limit", "84", "--arms", "self-play", "grammar",
                               "more warm start", *more], cwd=tmp_path, capture_output=True, text=True)
    done = call()
    assert done.returncode == 0, done.stderr
    everything = json.loads((tmp_path / "runs" / "learns.json").read_text())
    assert not (tmp_path / "results").exists(), "nothing is published unless it is asked for"
    assert list(everything["arms"]) == ["self-play", "grammar", "more warm start"]
    ours = everything["arms"]["self-play"]
    assert set(ours["measures"]["T1"]) == {"before", "after", "gain", "interval"} and ours["curves"][0]["T1"]
    assert everything["arms"]["grammar"]["measures"]["T1"]["ahead_interval"] > 0
    warm = everything["arms"]["more warm start"]["tokens"][0]
    assert warm["tokens_trained"] >= ours["tokens"][0]["tokens_trained"] > 0
    assert "| self-play | 1 |" in (tmp_path / "runs" / "learns.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert call("--publish").returncode == 0
    assert "| self-play | 1 |" in (tmp_path / "results" / "learns.md").read_text()
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}

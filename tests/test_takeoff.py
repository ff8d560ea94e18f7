"""experiments/takeoff.py: what its arms are told, when they have ended, what is made of their numbers; a dry run."""
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from config import UserError
from experiments import takeoff
from runs import ROOT


@pytest.fixture
def plan(tmp_path, monkeypatch) -> takeoff.Plan:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text((ROOT / "nano" / "heldout.jsonl").open().readline())
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(takeoff, "plot", lambda *_: None)  # the dry run draws it
    return takeoff.parse_plan(["--model", str(tmp_path / "folder"), "--seed_tasks", str(seeds), "--limit", "4",
                               "--steps", "7", "--out", str(tmp_path / "out"), "--device", "cpu", "--lr", "1e-4"])[1]


def test_arms_differ_in_their_flags_alone(plan):
    flags = {arm: takeoff.arm_flags(plan, arm) for arm in takeoff.ARMS}
    assert all(some[some.index("--lr") + 1] == "1e-4" and "--heldout_tasks" in some for some in flags.values())
    assert "--propose_from" in flags["solver"] and "--seed_tasks" not in flags["identity"]
    assert flags["coin"][flags["coin"].index("--control") + 1] == "random"
    with pytest.raises(UserError, match="needs --seed_tasks"):
        takeoff.arm_flags(replace(plan, seed_tasks=None), "solver")


def test_a_folder_keeps_its_tasks_and_refuses_other_options(plan):
    takeoff.prepare(plan, dry=False)
    rows = [json.loads(line) for line in (plan.out / "heldout.jsonl").read_text().splitlines()]
    assert [row["type"] for row in rows[:3]] == list(dict.fromkeys(row["type"] for row in rows)) and len(rows) == 4
    takeoff.prepare(replace(plan, steps=9, budget_s=5.0, arms=("coin",)), dry=False)  # these may change
    with pytest.raises(UserError, match="other options"):
        takeoff.prepare(replace(plan, flags=("--lr", "1e-5")), dry=False)


def test_an_arm_goes_on_until_it_has_ended(plan, monkeypatch):
    step = -1
    monkeypatch.setattr(takeoff, "last_step", lambda folder: step)
    ((script, *flags),) = takeoff.commands_left(plan, "selfplay")
    assert script == str(ROOT / "train.py") and flags[:2] == ["--name", "selfplay"]
    step, folder = 7, plan.out / "runs" / "selfplay"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "state.json").write_text("{}")
    assert takeoff.commands_left(plan, "selfplay")[0][1] == "--resume", "trained, but not evaluated"
    (folder / "heldout.md").write_text("")
    assert takeoff.commands_left(plan, "selfplay") == []
    assert takeoff.commands_left(replace(plan, steps=9), "selfplay")[0][1] == "--resume"
    assert takeoff.commands_left(replace(plan, steps=9, budget_s=60.0), "selfplay") == [], "its time was used"
    takeoff.write_rows(folder / "metrics.jsonl", [{"step": 1, "tokens_generated": 60},
                                                  {"step": 2, "tokens_generated": 50}])
    assert takeoff.commands_left(replace(plan, steps=10**6, tokens=110), "selfplay") == [], "its tokens were used"
    assert takeoff.commands_left(replace(plan, steps=10**6, tokens=111), "selfplay")[0][1] == "--resume"
    assert takeoff.commands_left(replace(plan, tokens=111), "selfplay") == [], "its steps were made"
    os.utime(folder / "heldout.md", (1, 1))
    assert takeoff.commands_left(plan, "selfplay")[0][1] == "--resume", "trained further since"
    assert takeoff.commands_left(replace(plan, data="."), "selfplay")[-1][2] == "cruxeval"


def written(plan: takeoff.Plan, arm: str, tokens: int, right: list[list[int]]) -> None:
    """An arm's files: `right` of 2 answers at T = 1 by evaluation (every step) and task; greedy answers one in two."""
    folder = plan.out / "runs" / arm
    folder.mkdir(parents=True)
    lines = [{"step": step, "tokens_generated": tokens, "valid/deduction": step / 10, "seconds/rollout": 1.0}
             for step in range(1, len(right))]
    takeoff.write_rows(folder / "metrics.jsonl", lines)
    takeoff.write_rows(folder / "evaluations.jsonl", [
        {"step": step, "heldout": {"n": 1, "strict": [1, 0, 1, 0], "lenient": [1, 1, 1, 0]},
         "heldout_sampled": {"n": 2, "strict": some, "lenient": [2] * 4}} for step, some in enumerate(right)])
    takeoff.write_rows(folder / "samples.jsonl", [
        {"step": step, "role": "solve", "type": "deduction", "verdict": "wrong", "reward": -0.5, "tokens": 3,
         "text": f"\x1b[2J of step {step}"} for step in range(1, len(right))])


def test_arms_are_compared_at_the_tokens_that_all_have_had(plan):
    takeoff.prepare(plan, dry=False)
    written(plan, "selfplay", 160, [[0, 0, 0, 0], [1, 0, 0, 0], [2, 2, 0, 0], [2, 2, 2, 2]])
    written(plan, "solver", 100, [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]])
    table = takeoff.write_results(plan)
    found = json.loads((plan.out / "takeoff.json").read_text())["arms"]
    chosen = {arm: one["evaluations"][one["at_equal_tokens"]] for arm, one in found.items()}
    assert {arm: one["tokens"] for arm, one in chosen.items()} == {"selfplay": 320, "solver": 300}
    assert "no evaluation near" not in table
    end = found["selfplay"]["evaluations"][-1]["measures"]
    assert end["T1 strict"]["mean"] == end["T1 strict"]["change"] == 1.0
    assert end["greedy strict"]["change"] == 0.0 and end["greedy lenient"]["mean"] == 0.75
    assert found["solver"]["evaluations"][-1]["measures"]["pass@n strict"]["mean"] == 0.5
    assert "0.0 -> 100.0 (+100.0" in table and (plan.out / "takeoff.md").read_text() == table
    read = (plan.out / "responses.md").read_text()
    assert "of step 1" in read and "of step 3" in read and "of step 2" not in read and "\x1b" not in read


def test_an_evaluation_far_from_the_equal_tokens_is_not_compared(plan):
    takeoff.prepare(plan, dry=False)
    written(plan, "selfplay", 180, [[0, 0, 0, 0], [1, 0, 0, 0], [2, 2, 0, 0], [2, 2, 2, 2]])  # at 360, 20% over 300
    written(plan, "solver", 100, [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]])
    _, equally = takeoff.write_results(plan).split("At about 300 generated tokens")
    rows = {line.split(" | ")[0]: line.split(" | ")[1:] for line in equally.split("Training")[0].splitlines()}
    assert {cell.strip(" |") for cell in rows["| selfplay"]} == {"- (no evaluation near)"}
    assert rows["| solver"][:2] == ["3", "300"] and len(rows["| solver"]) == len(rows["| selfplay"])
    found = json.loads((plan.out / "takeoff.json").read_text())["arms"]
    assert found["selfplay"]["at_equal_tokens"] is None and found["solver"]["at_equal_tokens"] == 3


def test_what_is_published_names_no_folders(plan):
    takeoff.prepare(plan, dry=False)
    written(plan, "solver", 100, [[0, 0, 0, 0], [1, 1, 0, 0]])
    takeoff.write_results(plan)
    told = json.loads((plan.out / "takeoff.json").read_text())["plan"]
    assert (told["out"], told["seed_tasks"], told["flags"][:2]) == ("out", "seeds.jsonl", ["--model", "folder"])
    assert all(str(plan.out.parent) not in (plan.out / name).read_text() for name in ("takeoff.json", "takeoff.md"))


@pytest.mark.parametrize("flags, says", [(["--arms", "nobody", "--model", "x"], "no arm called nobody"),
                                         ([], "--model is missing")])
def test_options_that_cannot_work_are_told(capsys, flags, says):
    with pytest.raises(SystemExit, match="2"):
        takeoff.main(flags)
    assert says in capsys.readouterr().err


def test_what_train_would_refuse_is_told_before_anything_runs(plan, capsys):
    assert takeoff.main(["--model", str(plan.out), "--arms", "identity", "--out", str(plan.out), "--lr", "-1"]) == 2
    assert "--lr -1.0: must be above 0" in capsys.readouterr().err and not (plan.out / "runs").exists()


@pytest.mark.slow
def test_a_dry_run_does_all_of_it_and_a_second_call_nothing(tmp_path):
    arms = ["--arms", "identity,solver,form", "--require", "weak", "--device", "cpu", "--out", str(tmp_path / "dry")]

    def call(*flags: str) -> str:
        done = subprocess.run([sys.executable, "-m", "experiments", "takeoff", "--dry", *arms, *flags], cwd=ROOT,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout
    told = call()
    assert all(f"| {arm} | 2 |" in told for arm in ("identity", "solver", "form")) and "| coin" not in told
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "dry" / "runs").rglob("*")}
    assert call("--report") == told
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "dry" / "runs").rglob("*")}

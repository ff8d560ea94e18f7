"""Statistics against closed forms, and the comparison of two evaluations."""
import json
import random
from dataclasses import replace

import pytest

from benchmarks import selfplay, stats, summary
from tasks import Task


@pytest.mark.quick
def test_statistics_against_closed_forms():
    assert stats.wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-3)
    assert stats.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-3)
    assert stats.mcnemar(0, 5) == 0.0625 and stats.mcnemar(0, 4) == 0.125 and stats.mcnemar(0, 2) == 0.5
    assert stats.mcnemar(3, 3) == 1 and stats.mcnemar(0, 0) == 1 and stats.mcnemar(1, 9) == pytest.approx(22 / 1024)
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.5, 0.9]) == [1.0, 1.0]
    assert stats.pass_at_k(10, 3, 1) == pytest.approx(0.3) and stats.pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert stats.pass_at_k(4, 2, 3) == 1 and stats.pass_at_k(64, 0, 64) == 0
    values = [1.0, 0.0, 1.0, 1.0]
    assert stats.standard_error(values, list("abcd")) == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert stats.standard_error([1, 1, 0, 0], list("aabb")) == pytest.approx(0.5 * 2 ** 0.5 / 2)  # as of two problems
    assert stats.macro_error([3.0, 4.0]) == 2.5


def test_exact_intervals():
    assert stats.exact(0, 10) == pytest.approx((0, 0.3085), abs=1e-4)
    assert stats.exact(5, 10) == pytest.approx((0.1871, 0.8129), abs=1e-4)
    assert stats.exact(12, 14) == pytest.approx((0.5719, 0.9822), abs=1e-4)


def test_pass_at_k_is_unbiased():
    generator = random.Random(0)
    drawn = [stats.pass_at_k(8, sum(generator.random() < 0.3 for _ in range(8)), 4) for _ in range(20_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(1 - 0.7 ** 4, abs=0.01)


def test_intervals_know_clusters():
    values = [float(i % 2) for i in range(200)]
    independent = stats.interval(values, [str(i) for i in range(200)])
    assert independent == stats.wilson(100, 200)
    clustered = stats.interval(sorted(values), [str(i // 10) for i in range(200)])  # twenty problems, ten times each
    assert clustered[1] - clustered[0] > 2.5 * (independent[1] - independent[0])
    assert stats.interval([1.0] * 40, [str(i // 10) for i in range(40)]) == stats.wilson(4, 4)  # and not [1, 1]
    several = stats.interval([0.5] * 30, [str(i) for i in range(30)])  # half of each problem's samples: no spread
    assert several == stats.wilson(15, 30)
    low, high = stats.bootstrap(values, [str(i) for i in range(200)])
    assert (low, high) == stats.bootstrap(values, [str(i) for i in range(200)])
    assert low == pytest.approx(independent[0], abs=0.01) and high == pytest.approx(independent[1], abs=0.01)


def test_intervals_of_paired_changes():
    def interval(both, gained, lost, neither, clusters=None):
        pairs = [(1.0, 1.0)] * both + [(0.0, 1.0)] * gained + [(1.0, 0.0)] * lost + [(0.0, 0.0)] * neither
        return stats.change_interval(pairs, clusters or [str(i) for i in range(len(pairs))])
    pairs = [(1.0, 1.0)] * 36 + [(0.0, 1.0)] * 12 + [(1.0, 0.0)] * 2
    assert stats.newcombe(pairs) == pytest.approx((0.0569, 0.3404), abs=1e-4)  # an example of Newcombe's
    assert stats.newcombe([pair[::-1] for pair in pairs]) == pytest.approx((-0.3404, -0.0569), abs=1e-4)
    assert interval(36, 12, 2, 0) == pytest.approx((14 / 50 * (2 * 0.5719 - 1), 0.3404), abs=1e-4)  # 12 of 14, exactly
    assert interval(300, 60, 20, 120) == stats.newcombe([(1.0, 1.0)] * 300 + [(0.0, 1.0)] * 60 + [(1.0, 0.0)] * 20
                                                        + [(0.0, 0.0)] * 120)
    for lost, gained, rest in ((0, 5, 159), (1, 8, 100), (0, 6, 24), (3, 11, 40), (2, 10, 5)):
        low, high = interval(rest, gained, lost, 0)  # never at odds with the p that is printed beside it
        assert (low > 0) == (stats.mcnemar(lost, gained) < 0.05), (lost, gained)
        assert (-high, -low) == pytest.approx(interval(rest, lost, gained, 0))
    assert interval(13, 4, 0, 13)[0] < 0  # exact p = 0.125
    low, high = interval(15, 0, 0, 15)
    assert -0.08 < low < -0.04 and high == -low
    assert interval(0, 0, 0, 30) == pytest.approx((-0.1135, 0.1135), abs=1e-3)
    clusters = [str(i // 10) for i in range(100)]
    low, high = interval(0, 50, 0, 50, clusters)  # five clusters gained, none lost: exact p = 0.0625
    assert (low, high) == (0.0, stats.bootstrap([1.0] * 50 + [0.0] * 50, clusters)[1])
    assert interval(0, 70, 0, 30, clusters) == stats.bootstrap([1.0] * 70 + [0.0] * 30, clusters)


@pytest.mark.quick
def test_no_interval_is_empty():
    """Where all values are equal the bootstrap has nothing to draw from: that is not certainty."""
    clusters = [str(i // 4) for i in range(40)]
    for value in (0.0, 0.5, 1.0):
        low, high = stats.interval([value] * 40, clusters)
        assert low <= value <= high and high - low > 0.2  # of ten programs
        low, high = stats.change_interval([(value, value)] * 40, clusters)
        assert low < -0.05 and high > 0.05
    low, high = stats.change_interval([(0.25, 0.5)] * 40, clusters)
    assert low < 0.25 < high
    assert stats.change_interval([(0.0, 1.0)] * 5, ["one"] * 5)[0] < 0  # one program cannot show much


def test_weights_make_a_mean_over_types():
    values, weights = [1.0] * 30 + [0.0] * 10, [1 / 30] * 30 + [1 / 10] * 10
    clusters = [str(i) for i in range(40)]
    low, high = stats.interval(values, clusters, weights)
    assert low < 0.5 < high < 0.75
    assert stats.bootstrap(values, clusters, [2.0] * 40) == stats.bootstrap(values, clusters)


@pytest.mark.quick
def test_a_verdict_in_words():
    changes = {"deduction": (0.18, 0.14, 0.22), "induction": (0.004, -0.03, 0.04), "mean": (0.09, 0.07, 0.12)}
    assert stats.verdict(changes) == (
        "It got better: deduction +18 [14, 22]; induction no change (+0 [-3, 4]); mean +9 [7, 12]")
    assert stats.verdict({"deduction": (-0.2, -0.25, -0.1)}) == "It got worse: deduction worse, -20 [-25, -10]"
    assert stats.verdict({"deduction": (0.05, 0.003, 0.09)}) == "It got better: deduction +5.0 [0.3, 9.0]"
    assert stats.verdict({"induction": (0.0, -0.1, 0.1)}) == (
        "No change on the whole: induction no change (+0 [-10, 10])")


def made_tasks(count: int, programs: int = 10) -> list[Task]:
    """Of all types but one and three depths; a program is shared by several tasks and types."""
    return [Task(type, f"p{i % programs}", ((i,),), (i,), key=f"k{i % programs}", depth=1 + i % 3)
            for i in range(count) for type in ("induction", "abduction", "deduction")]


def test_tables_have_the_papers_order_a_mean_and_an_interval_of_every_change():
    some = made_tasks(40)
    before = selfplay.Scores(some, [int(task.type == "abduction" and task.outputs[0] % 2) for task in some])
    after = selfplay.Scores(some, [int(task.type != "induction" and task.outputs[0] % 3 > 0) for task in some])
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in selfplay.accuracy_table(before, after).splitlines()]
    assert rows[0] == ["type", "depth", "tasks", "before", "after", "change"]
    assert [row[0] for row in rows[2:6]] == ["deduction", "abduction", "induction", "mean"] and rows[5][2] == "120"
    assert [row[:2] for row in rows[6:9]] == [["deduction", "1"], ["deduction", "2"], ["deduction", "3"]]
    intervals = [tuple(map(float, row[5].split("[")[1].rstrip("]").split(", "))) for row in rows[2:]]
    assert all(low < high for low, high in intervals) and "+0.0 [" in rows[4][5]
    assert rows[5][5].startswith(f"+{100 * sum(b - a for a, b in zip(before.correct, after.correct)) / 120:.1f} [")


def test_tables_have_rows_of_the_groups_that_a_file_names_and_what_costs_nothing():
    some = [replace(task, group=("dose 10%", "dose 3%", "")[i % 3]) for i, task in enumerate(made_tasks(40))]
    scores = [selfplay.Scores(some, [value] * len(some)) for value in (0, 1, 1)]
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in selfplay.accuracy_table(*scores).splitlines()]
    assert rows[0] == ["type", "depth", "tasks", "before", "without training", "after", "change"]
    named = [row for row in rows if row[1].startswith("dose")]
    assert [row[:2] for row in named] == [["mean", "dose 3%"], ["mean", "dose 10%"]], "by the numbers in them"
    assert all(int(row[2]) == sum(task.group == row[1] for task in some) for row in named)
    assert rows[2][3].startswith("0.0") and rows[2][4].startswith("100.0") and rows[2][6].startswith("+100.0")


def test_intervals_of_tables_count_programs():
    """Twenty tasks of one program tell as much as one of them."""
    some = [Task("deduction", f"p{i % 4}", ((i,),), (i,), key=f"k{i % 4}", depth=1) for i in range(80)]
    scores = selfplay.Scores(some, [int(i % 4 < 2) for i in range(80)])
    (_, low, high), = selfplay.estimates(None, scores, list(range(80)))
    assert high - low > 0.6 > 0.3 > stats.wilson(40, 80)[1] - stats.wilson(40, 80)[0]


@pytest.mark.quick
def test_the_curves_tasks_are_of_all_kinds_and_always_the_same():
    some = made_tasks(60)
    chosen = selfplay.spread(some, 27)
    assert {len(mine) for mine in selfplay.cells(chosen).values()} == {3} and len(selfplay.cells(chosen)) == 9
    assert chosen == selfplay.spread(some, 27) == [task for task in some if task in chosen]
    assert set(chosen) == set(selfplay.spread(some[::-1], 27))
    assert selfplay.spread(some, 0) == selfplay.spread(some, 10**6) == some


# ---- two evaluations ------------------------------------------------------------------------------


def folder_with(path, results, prompt="azr", sha="1", clusters=None):
    """An --out folder with these verdicts: {id: [ok, ...]}."""
    path.mkdir()
    rows = [{"task": "amc23", "id": id, "k": k, "temperature": 0.0, "cluster": (clusters or {}).get(id, id), "ok": ok,
             "reason": "", "finish": "", "tokens": 1} for id, oks in results.items() for k, ok in enumerate(oks)]
    (path / "verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "summary.json").write_text(json.dumps({
        "settings": {"prompt": prompt}, "tasks": {"amc23": {"title": "AMC23", "files": [{"sha256": sha}]}}}))
    return path


@pytest.mark.quick
def test_compare_is_paired(tmp_path):
    before = folder_with(tmp_path / "a", {str(i): [i < 4] for i in range(10)})
    after = folder_with(tmp_path / "b", {str(i): [0 < i < 9] for i in range(10)})
    text = summary.compare(before, after)
    assert "| AMC23 | 0.0 | 10 | 40.0 | 80.0 | +40.0 [" in text and "| 1 | 5 | 0.219 | 0.219 |" in text
    with pytest.raises(ValueError, match="differ in prompt"):
        summary.compare(before, folder_with(tmp_path / "c", {"0": [1]}, prompt="chat"))
    with pytest.raises(ValueError, match="different files"):
        summary.compare(before, folder_with(tmp_path / "d", {"0": [1]}, sha="2"))
    fewer = summary.compare(before, folder_with(tmp_path / "e", {"0": [1, 1, 0]}))
    assert "1 problems are in both, of 10 and 1" in fewer and "a sign test" in fewer
    assert "+0.0 [-" in summary.compare(before, before)  # nothing changed, which is not certainty


def test_compare_knows_clusters_and_pass_at_k(tmp_path):
    clusters = {str(i): str(i // 5) for i in range(10)}
    results = [{id: [now] for id in clusters} for now in (0, 1)]
    sides = [folder_with(tmp_path / str(i), result, clusters=clusters) for i, result in enumerate(results)]
    text = summary.compare(*sides)
    assert "| 0 | 10 | 0.5 | 0.5 |" in text and "p is of 2 groups" in text  # two coins, and not ten
    few = [folder_with(tmp_path / f"n{i}", {str(j): oks for j in range(40)})
           for i, oks in enumerate(([0, 0, 1, 1], [0, 0, 0, 1]))]
    text = summary.compare(*few)
    assert "pass@k 1: 50.0 to 25.0, -25.0 [-43.3, -3.8], 2: 83.3 to 50.0" in text  # all changed alike: not certainty
    assert "Of k = 4 there is one draw per problem" in text
    (few[1] / "verdicts.jsonl").write_text((few[1] / "verdicts.jsonl").read_text().replace('0.0,', '0.6,'))
    with pytest.raises(ValueError, match="no task in common"):
        summary.compare(*few)

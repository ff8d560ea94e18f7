"""Statistics against closed forms, and the comparison of two evaluations."""
import json
import random

import pytest

from benchmarks import stats, summary


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
    low, high = stats.bootstrap(values, [str(i) for i in range(200)])
    assert (low, high) == stats.bootstrap(values, [str(i) for i in range(200)])
    assert low == pytest.approx(independent[0], abs=0.01) and high == pytest.approx(independent[1], abs=0.01)


def test_intervals_of_paired_changes():
    def interval(both, gained, lost, neither, clusters=None):
        pairs = [(1.0, 1.0)] * both + [(0.0, 1.0)] * gained + [(1.0, 0.0)] * lost + [(0.0, 0.0)] * neither
        return stats.change_interval(pairs, clusters or [str(i) for i in range(len(pairs))])
    assert interval(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=1e-4)  # an example of Newcombe's
    assert interval(36, 2, 12, 0) == pytest.approx((-0.3404, -0.0569), abs=1e-4)
    assert interval(13, 4, 0, 13)[0] < 0  # exact p = 0.125
    low, high = interval(15, 0, 0, 15)
    assert -0.08 < low < -0.04 and high == -low
    assert interval(0, 0, 0, 30) == pytest.approx((-0.1135, 0.1135), abs=1e-3)
    wide = interval(0, 50, 0, 50, [str(i // 10) for i in range(100)])
    assert wide == stats.bootstrap([1.0] * 50 + [0.0] * 50, [str(i // 10) for i in range(100)])


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
    (few[1] / "verdicts.jsonl").write_text((few[1] / "verdicts.jsonl").read_text().replace('0.0,', '0.6,'))
    with pytest.raises(ValueError, match="no task in common"):
        summary.compare(*few)

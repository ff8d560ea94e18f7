"""The report from outside: a page made from a run folder, opened in a real browser; what it measures; bad input."""
import base64
import gzip
import html.parser
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from html import escape as html_escape
from pathlib import Path

import pytest

import browser
import runfolder
import tasks
from config import PRESETS, Config
from executor import Executor, Job
from report import __main__ as command
from report import curves, findings, gallery, headline, measure, overview, page, read

ROOT = Path(__file__).resolve().parent.parent
# What a text may hold that a page, its script or a pattern could take for something else.
ODD = "<!-- <script> {{DATA}} \\1 \\g<0> \u2028\u2029 \ud800 \x00\x1b[2J &amp; ``` ]]> " + "long" * 3000
EVIL = "</script><script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'broken'\">"


def synthetic(folder: Path, steps: int, per_step: int, seed: int = 0, words: int = 60, answers: int = 7,
              types: tuple = ("deduction", "abduction", "induction")) -> Path:
    """A run folder as train.py would write it, with about `per_step` samples a step of `words` words of thinking. One
    proposal in eight fails the gate; one holds markup."""
    rng, folder = random.Random(seed), folder / f"made-{seed}"
    folder.mkdir(parents=True)
    preset = vars(Config(**PRESETS["nano"]))
    config = preset | {"preset": "nano", "name": f"made-{seed}", "seed": seed, "steps": steps, "kl_coef": 0.5,
                       "types": types}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preset.json").write_text(json.dumps(preset))
    (folder / "heldout.md").write_text(
        "Tasks of /some/where/heldout.jsonl:\n\n| type | depth | before | after |\n|---|---|---|---|\n"
        f"| deduction | all | 50.0 [40, 60] | 7{seed}.0 [60, 79] |\n| deduction | 1 | 51.0 [40, 60] | 2 |\n")
    lexicon = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(4000)]
    shown: dict[str, list[str]] = {type: [] for type in types}
    metrics, samples = open(folder / "metrics.jsonl", "w"), open(folder / "samples.jsonl", "w")

    def thinking() -> str:
        return " ".join(rng.choices(lexicon, k=words))
    for step in range(1, steps + 1):
        line = {"step": step, "tokens_generated": 100, "tokens_trained": 90, "kl_sampler_trainer": 1e-9,
                "tokens_per_second": 100.0, "seconds/rollout": 2.0, "seconds/update": 1.0}
        for type in types:
            line |= {f"valid/{type}": 0.875, f"gate/{type}/valid": 7, f"gate/{type}/no f": 1, f"solve_rate/{type}": 0.5,
                     f"learnability/{type}": 0.4, f"solved_of_{answers}/{type}": [1] * (answers + 1)}
            for role in ("propose", "solve"):
                line |= {f"{name}/{role}/{type}": rng.random() for name in
                         ("reward", "entropy", "length", "zero_advantage")} | {f"cut_off/{role}/{type}": 0.0}
        if step % 4 == 0:
            gained = min(step, 12) / 60
            line |= {"heldout": {f"{type}/{depth}": 0.3 + gained for type in types for depth in (1, 2)},
                     "heldout_by_type": {type: [0.3 + gained, 0.2 + gained, 0.4 + gained] for type in types},
                     "heldout_change": {type: [gained, gained - 0.1, gained + 0.1] for type in types}}
        metrics.write(json.dumps(line) + "\n")
        for number in range(max(1, per_step // (answers + 1))):
            type = types[number % len(types)]
            k, n = rng.randrange(10_000), 4 if type == "induction" else 1
            program = (f"def f(x):\n    total = {k}\n    for i in range(x % 9):\n        total += i * {k % 7}\n"
                       "    return total")
            task = {"type": type, "program": program, "inputs": [str(i) for i in range(n)], "outputs": [str(k)] * n,
                    "message": EVIL if type == "induction" else "", "step": step}
            valid, odd = (step + number) % 8 != 0, [EVIL, ODD][number] if number < 2 else thinking()
            row = {"step": step, "role": "propose", "kind": "propose", "type": type, "reward": 0.5 if valid else -1.0,
                   "heldout": False, "well_formed": True, "verdict": "valid" if valid else "no f", "solve_rate":
                   0.5 if valid else None, "advantage": 0.0, "finish": "stop", "tokens": 50, "prompt": "p", "text":
                   f"{odd}</think><answer>```python\n{program}\n```</answer>",
                   "references": shown[type][-2:]}
            samples.write(json.dumps(row | ({"task": task} if valid else {})) + "\n")
            if not valid:
                continue
            shown[type].append(tasks.task_id(task))
            for j in range(answers):
                samples.write(json.dumps({
                    "step": step, "role": "solve", "kind": "probe", "type": type, "reward": 1.0 if j % 2 else -0.5,
                    "heldout": False, "well_formed": True, "verdict": "correct" if j % 2 else "wrong",
                    "solve_rate": None, "advantage": 0.0, "finish": "stop", "tokens": 40, "prompt": "p" * 200,
                    "task_id": tasks.task_id(task), "text":
                    f"{thinking()}</think><answer>```output\n{EVIL if j == 0 else k}\n```</answer>"}) + "\n")
    metrics.close(), samples.close()
    return folder


def history(samples: list[dict]) -> read.History:
    return read.History(Path("x"), Config(name="x"), None, {}, [], samples)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two synthetic runs that differ in the seed, with a page of the first and one of both."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [synthetic(folder, 12, 48, seed, words=12) for seed in (0, 1)]
    page.write_page(runs[:1], folder / "one.html", folder / "png", workers=1, require="weak")
    page.write_page(runs, folder / "both.html", workers=1, require="weak")
    return folder


def unpack(text: str, id: str):
    packed = re.search(rf'<script type="application/gzip" id="{id}">(.*?)</script>', text).group(1)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


# --------------------------------------------------------------------------------------------------------------
# The page

class Tags(html.parser.HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def words(text: str) -> str:
    """What a reader sees."""
    return Tags(text).text


def test_page_holds_no_markup_of_the_model_and_nothing_from_outside(made):
    text = (made / "one.html").read_text()
    tags = Tags(text).tags
    assert "onerror" not in text and "broken" not in text
    assert sum(tag == "script" and "type" not in attrs for tag, attrs in tags) == 1
    loaded = [attrs[name] for tag, attrs in tags for name in ("src", "href", "xlink:href") if name in attrs]
    assert all(link.startswith(("#", "data:")) for link in loaded)
    assert "default-src 'none'" in text


def test_ids_are_unique_and_every_figure_is_also_a_table(made):
    text = (made / "both.html").read_text()
    ids = [attrs["id"] for _, attrs in Tags(text).tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert text.count("<figure ") == text.count("as a table</summary>") > 15
    assert text.count("<svg ") == text.count('role="img"')


def test_gallery_holds_every_sample_once_with_its_family(made):
    rows = [json.loads(line) for line in open(made / "made-0" / "samples.jsonl")]
    text = (made / "one.html").read_text()
    index = unpack(text, "index")
    entries = [entry for i in range(-(-len(index["step"]) // index["chunk"])) for entry in unpack(text, f"chunk{i}")]
    lines = [entry["line"] for entry in entries] + [a[-1] for entry in entries for a in entry["answers"]]
    assert sorted(lines) == list(range(1, len(rows) + 1))
    for i, entry in enumerate(entries):
        row = rows[entry["line"] - 1]
        assert row["text"] == entry["text"] and row["step"] == index["step"][i]
        shown = [tasks.task_id(rows[entries[ref]["line"] - 1]["task"]) for ref in index["refs"][i]]
        assert shown == row["references"]
        assert all(rows[a[-1] - 1]["task_id"] == tasks.task_id(row["task"]) for a in entry["answers"])


def test_runs_that_differ_in_the_seed_become_a_band_and_others_lines_of_their_own(made):
    runs = [read.read_history(made / f"made-{seed}") for seed in (0, 1)]
    (label,), (group,) = read.group(runs).keys(), read.group(runs).values()
    assert label == "made (2 seeds)" and group == runs
    reward = next(m for m in curves.MEASURES if m.name == "reward")
    line = curves.panels_of(reward, {label: group}, 12)[0].lines[0]
    values = [dict(zip(*run.series["reward/propose/deduction"])) for run in runs]
    for i, step in enumerate(line.x):
        both = [value[step] for value in values]
        assert (line.low[i], line.high[i]) == (min(both), max(both)) and line.y[i] == pytest.approx(sum(both) / 2)
    runs[1].config.lr = 1.0
    panels = curves.panels_of(reward, read.group(runs), 12)
    assert len(panels) == 6 and all(len(panel.lines) == 2 for panel in panels)


def test_only_runs_that_differ_in_the_seed_are_one_group(made):
    def labels(**changes) -> list[str]:
        runs = [read.read_history(made / f"made-{seed}") for seed in (0, 1)]
        runs[1].config = replace(runs[1].config, **changes)
        return list(read.group(runs))
    assert labels(model="/elsewhere/nano", workers=9) == ["made (2 seeds)"] and labels(seed=0) == ["made (2 runs)"]
    assert labels(model="/elsewhere/other") == labels(steps=99) == ["made-0", "made-1"]


def test_compared_runs_stand_side_by_side(made):
    text = (made / "both.html").read_text()
    assert "Options in which the runs differ" in text and "50.0 [40, 60] to 71.0 [60, 79]" in words(text)
    assert "Side by side" not in (made / "one.html").read_text()


def test_a_new_task_type_is_on_the_page_of_a_run_that_has_it_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setitem(tasks.TYPES, "fourth", replace(tasks.DEDUCTION, name="fourth", paper=False))
    runs = [synthetic(tmp_path, 2, 32, seed, types=("deduction", *more)) for seed, more in ((0, ()), (1, ["fourth"]))]
    texts = []
    for run in runs:
        page.write_page([run], run / "report.html", workers=1, require="weak")
        texts.append((run / "report.html").read_text())
    assert "fourth" not in texts[0] and unpack(texts[0], "index")["types"] == ["deduction"]
    assert "fourth from" in texts[1] and unpack(texts[1], "index")["types"] == ["deduction", "fourth"]
    assert "new_program/fourth" in read_measured(runs[1]).series


def read_measured(folder: Path) -> read.History:
    run = read.read_history(folder)
    with Executor(1, require="weak", preload=("report.measure",)) as executor:
        findings.measure_programs(run, executor)
    return run


def test_shares_of_gate_reasons_count_steps_in_which_nothing_was_solved(made, tmp_path):
    folder = shutil.copytree(made / "made-0", tmp_path / "run")
    (folder / "metrics.jsonl").write_text(
        '{"step": 1, "gate/deduction/valid": 3, "gate/deduction/no f": 1, "solve_rate/deduction": 0.5}\n'
        '{"step": 2, "gate/deduction/error": 4, "solve_rate/deduction": null}\n')
    run = read.read_history(folder)
    assert run.series["gate/deduction/no f"] == ([1, 2], [0.25, 0.0])
    assert run.series["gate/deduction/error"] == ([1, 2], [0.0, 1.0])


def test_an_older_run_is_read_and_its_options_are_told_as_they_are_now(made, tmp_path):
    folder = shutil.copytree(made / "made-0", tmp_path / "run")
    for name in ("config.json", "preset.json"):
        options = json.loads((folder / name).read_text())
        options |= {"reuse_probes": True, "solve_tasks": "this", "stream": True}
        (folder / name).write_text(json.dumps(options))
    run = read.read_history(folder)
    assert run.config.solve_tasks == "probes" and [row[0] for row in overview.differences(run)] == \
        [row[0] for row in overview.differences(read.read_history(made / "made-0"))]


@pytest.mark.quick
def test_references_to_both_copies_of_a_seed_are_found():
    """Seeding puts a task into the buffers of both deduction and abduction; samples.jsonl has the one it was."""
    def row(step, type, program, references):
        task = {"type": type, "program": program, "inputs": ["1"], "outputs": ["1"], "message": "", "step": step}
        return {"step": step, "kind": "propose", "type": type, "text": "", "task": task, "references": references}
    first = row(0, "deduction", "p", ["the identity program's"])
    copy = tasks.task_id(first["task"] | {"type": "abduction"})
    run = history([first, row(1, "abduction", "q", [copy])])
    assert [(e["refs"], e["elsewhere"]) for e in gallery.entries_of([run])] == [([], 1), ([0], 0)]


def drawn(name: str, run: read.History, label: str = "a") -> list[str]:
    chosen = next(m for m in curves.MEASURES if m.name == name)
    return [curves.svg(chosen, panel, "id") for panel in curves.panels_of(chosen, {label: [run], "b": [run]}, 12)]


def test_plots_name_every_line_and_count_steps_in_whole_numbers(made):
    run = read.read_history(made / "made-0")
    assert all(">no f<" in svg for svg in drawn("gate", run))  # the only reason
    assert all(">2.5<" not in svg and ">12<" in svg for svg in drawn("length", run))
    odd = "x\\g<0>\\1 <b>&"
    assert f"{html_escape(odd)} from" in drawn("reward", run, odd)[0]


def test_the_columns_of_learnability_are_steps(made):
    run = read.read_history(made / "made-0")
    chosen = next(m for m in curves.MEASURES if m.name == "learnability")
    panels = curves.panels_of(chosen, {"a": [run]}, 12)
    rows = re.findall(r"<tr><th scope=row>(.*?)</th><td>(.*?)</td>", curves.numbers_table(chosen, panels))
    assert rows == [("0", "-"), *((str(step), "0.125") for step in range(1, 13))]


def test_overview_tells_options_results_and_pictures(made):
    text = (made / "one.html").read_text()
    assert "--kl_coef" in text and "--batch_size" not in text  # the latter is as in the preset
    assert "70.0 [60, 79]" in words(text) and "/some/where" not in text
    assert {"reward.png", "learnability.png"} <= {path.name for path in (made / "png").iterdir()}


@pytest.mark.parametrize("changes, word", [
    ({"entropy/solve/deduction": [1.0] * 20 + [0.01] * 20}, "Variety lost"),
    ({"cut_off/propose/induction": [0.5] * 40}, "Cut off"), ({"valid/abduction": [0.0] * 40}, "Few valid proposals"),
    ({"new_program/deduction": [0.1] * 40}, "Repetition"), ({"kl_sampler_trainer": [0.5] * 40}, "Mismatch"),
    ({"accuracy/deduction": [0.3, 0.4, 0.2]}, "Held-out accuracy of deduction halved: 40% to 20%, -20 points, from")])
def test_warnings_in_plain_words(made, changes, word):
    run = read.read_history(made / "made-0")
    assert not any(line.startswith(word) for line in headline.troubles(run))
    run.series |= {key: (list(range(len(values))), values) for key, values in changes.items()}
    assert any(line.startswith(word) for line in headline.troubles(run))


# --------------------------------------------------------------------------------------------------------------
# The verdict

def with_table(made, tmp_path, rows: str) -> read.History:
    folder = shutil.copytree(made / "made-0", tmp_path / "run")
    (folder / "heldout.md").write_text("Held-out tasks of /a/b.jsonl, after 12 steps:\n\nIt got odd.\n\n"
                                       f"| type | depth | tasks | before | after | change |\n{'|---' * 6}|\n{rows}")
    return read.read_history(folder)


@pytest.mark.parametrize("rows, verdict, warned", [
    ("| deduction | all | 400 | 20.0 [16, 24] | 38.0 [34, 42] | +18.0 [14, 22] |\n"
     "| induction | all | 400 | 10.0 [7, 13] | 10.5 [8, 14] | +0.5 [-3, 4] |\n"
     "| mean | all | 800 | 15.0 [13, 17] | 24.3 [22, 26] | +9.3 [7, 12] |\n",
     "It got better: deduction +18 [14, 22]; induction no change (+0 [-3, 4]); mean +9 [7, 12]", ""),
    ("| deduction | all | 400 | 20.0 [16, 24] | 22.6 [19, 27] | +2.6 [0.3, 4.9] |\n",
     "It got better: deduction +2.6 [0.3, 4.9]", ""),
    ("| deduction | all | 400 | 40.0 [36, 44] | 18.0 [15, 22] | -22.0 [-27, -17] |\n",
     "It got worse: deduction worse, -22 [-27, -17]",
     "Held-out accuracy of deduction halved: 40% to 18%, -22 [-27, -17] points, on 400 held-out tasks."),
    ("| deduction | all | 400 | 40.0 [36, 44] | 33.0 [29, 37] | -7.0 [-11, -3] |\n",
     "It got worse: deduction worse, -7 [-11, -3]", "Held-out accuracy of deduction fell: 40% to 33%"),
    ("| deduction | all | 10 | 40.0 [17, 69] | 20.0 [6, 51] | -20.0 [-50, 17] |\n",
     "No change on the whole: deduction no change (-20 [-50, 17])", "which with so few tasks may be chance"),
    ("| deduction | all | 400 | 40.0 [36, 44] | 18.0 [15, 22] | -22.0 |\n",  # of an earlier version
     "It got worse: deduction worse, -22 [-27, -16]", "halved"),
    ("| deduction | 1 | 400 | 40.0 [36, 44] | 18.0 [15, 22] | -22.0 |\n", "Not measured yet", "")])
def test_the_verdict_and_the_warnings_read_the_tables(made, tmp_path, rows, verdict, warned):
    run = with_table(made, tmp_path, rows)
    run.metrics = [line for line in run.metrics if "heldout" not in line]
    for key in [key for key in run.series if key.startswith("accuracy/")]:
        del run.series[key]
    assert headline.outcome(run)[0] == verdict
    told = [line for line in headline.troubles(run) if line.startswith("Held-out")]
    assert (len(told) == 1 and warned in told[0]) if warned else not told
    shown = words(headline.headline(run) + headline.warnings(run))
    assert verdict in shown and warned in shown


def test_the_verdict_is_of_the_newest_evaluation(made, tmp_path):
    rows = "| deduction | all | 400 | 20.0 [16, 24] | 38.0 [34, 42] | +18.0 [14, 22] |\n"
    run = with_table(made, tmp_path, rows)
    assert headline.outcome(run)[0] == "It got better: deduction +18 [14, 22]"
    run.metrics.append({"step": 20, "heldout_by_type": {"deduction": [0.3, 0.2, 0.4]},
                        "heldout_change": {"deduction": [-0.1, -0.2, -0.05]}})  # it went on
    assert headline.outcome(run)[0] == "It got worse: deduction worse, -10 [-20, -5]"
    assert "deduction fell: 40% to 30%, -10 [-20, -5] points, on held-out tasks up to step 20" in words(
        headline.warnings(run))
    (run.folder / "heldout.md").unlink()
    run.metrics.pop()
    assert headline.outcome(run)[0].startswith("It got better: deduction +20 [10, 30]")  # of step 12, see synthetic


def test_an_early_and_a_late_task_are_on_the_page_and_open_in_the_gallery(made):
    text = (made / "one.html").read_text()
    rows = [json.loads(line) for line in open(made / "made-0" / "samples.jsonl")]
    run = read.read_history(made / "made-0")
    early, late = headline.examples(run)
    assert (early["step"], late["step"]) == (1, 12) and early["type"] == late["type"] == "deduction"
    numbers = [int(attrs["data-task"]) for tag, attrs in Tags(text).tags if "data-task" in attrs]
    entries = gallery.entries_of([run])
    assert [entries[number]["sample"] for number in numbers] == [early, late]
    assert all(rows[s["line"] - 1]["task"]["program"] in words(text) for s in (early, late))
    hostile = early | {"task": early["task"] | {"program": EVIL, "inputs": ["\x1b[2J" + EVIL], "outputs": ["<b>"]}}
    run.samples = [hostile]
    card = headline.example_cards(run, {hostile["line"]: 7})
    assert {tag for tag, _ in Tags(card).tags} == {"div", "h3", "pre", "p", "code", "button"} and "\x1b" not in card


def test_under_solve_rate_stands_why_it_falls_beside_the_held_out_curve(made):
    text = (made / "one.html").read_text()
    figure = re.search(r"<figure id=fig-solve_rate.*?</figure>", text, re.DOTALL)[0]
    assert figure.count("<svg ") == 2 and "held-out tasks" in words(figure) and "harder it falls" in words(figure)


@pytest.mark.quick
def test_monitor_finds_talk_and_forbidden_programs_and_escapes_them():
    def row(text, verdict="valid"):
        return {"step": 3, "type": "deduction", "kind": "propose", "role": "propose", "text": text, "verdict": verdict}
    run = history([
        row("The aim is to Outsmart all these <b>humans</b></think>fine"), row("an escape character</think>x"),
        row("plain</think><answer>import os", "import not allowed")])
    text = page.monitor([run])
    assert "Outsmart" in text and "&lt;b&gt;" in text and "import os" in text and "escape character" not in text
    run.samples = [row(f"{EVIL} sandbox {ODD}</think>", "import not allowed")]
    assert "<script" not in page.monitor([run]) and "<!--" not in page.monitor([run])


# --------------------------------------------------------------------------------------------------------------
# Measures

def test_measures_of_programs():
    loop = "def f(x):\n    y = 0\n    for i in range(x):\n        y += i\n    return y"
    renamed = "def f(number):\n    # adds\n    s = 0\n    for k in range(number):\n        s += k\n    return s"
    formula = "def f(x):\n    return max(0, x * (x - 1) // 2)"
    hostile = "def f(x):\n    while True: pass"
    with Executor(1, require="weak", preload=("report.measure",)) as executor:
        a, b, c, d = [runs[0] for runs in executor.run([
            Job("from report.measure import measure", ((program, "3"),), "measure")
            for program in (loop, renamed, formula, hostile)])]
    assert a.value["key"] == b.value["key"] != c.value["key"]
    assert a.value["executed"] == 1 + 4 + 3 + 1 and c.value["executed"] == 1  # lines: y, for, body, return
    assert a.value["fingerprint"] == b.value["fingerprint"]
    negative_differs = a.value["behaviour"] == b.value["behaviour"]
    assert negative_differs and a.value["cyclomatic"] in (2, None)
    assert d.kind == "ok" and d.value["executed"] is None or d.kind == "timeout"
    near, far, same = findings.distances([a.value["fingerprint"], c.value["fingerprint"], b.value["fingerprint"]])
    assert near == 1.0 and 0 < far < 1 and same == 0


@pytest.mark.quick
def test_constant_and_identity_have_different_behaviour_whatever_their_words():
    outcomes = [measure.call_traced(compile(program, "<program>", "exec"), (3,)) for program in
                ("def f(x):\n    return x", "def f(x):\n    y = x\n    return y", "def f(x):\n    return 1 // 0")]
    assert outcomes == [(1, "3"), (2, "3"), (1, "ZeroDivisionError")]


# --------------------------------------------------------------------------------------------------------------
# Bad input, and what train.py calls

def replaced(old: str, new: str):
    """A change of a run folder: in its samples.jsonl, the first time."""
    return lambda folder: (folder / "samples.jsonl").write_text(
        (folder / "samples.jsonl").read_text().replace(old, new, 1))


@pytest.mark.parametrize("damage, says", [
    (lambda folder: (folder / "config.json").unlink(), "not a run folder"),
    (lambda folder: (folder / "config.json").write_text("{"), "not a run folder"),
    (lambda folder: (folder / "metrics.jsonl").unlink(), "train some steps"),
    (lambda folder: (folder / "metrics.jsonl").write_text(""), "train some steps"),
    (lambda folder: (folder / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"st'), "metrics.jsonl, line 2"),
    (lambda folder: (folder / "metrics.jsonl").write_text('{"step": 1, "reward": "x"}\n'), "metrics.jsonl, line 1"),
    (lambda folder: (folder / "samples.jsonl").write_text("[" * 100_000 + "\n"), "samples.jsonl, line 1"),
    (lambda folder: (folder / "samples.jsonl").write_bytes(b"\xff\xfe\0\n"), "samples.jsonl, line 1"),
    (replaced('"kind"', '"kin"'), "samples.jsonl, line 1"),
    (replaced('"reward": 0.5', '"reward": "0.5"'), "samples.jsonl, line 1"),
    (replaced('"task": {"type"', '"task": {}, "x": {"type"'), "samples.jsonl, line 1")])
def test_bad_input_is_one_line_and_loses_nothing(made, tmp_path, capsys, damage, says):
    folder = shutil.copytree(made / "made-0", tmp_path / "run")
    (folder / "report.html").write_text("the page before")
    damage(folder)
    assert command.main([str(folder), "--require", "weak", "--workers", "1"]) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1
    assert (folder / "report.html").read_text() == "the page before" and not list(folder.glob("*.new"))


@pytest.mark.parametrize("out, says", [("", "is a folder"), ("nowhere/page.html", "its folder is not there")])
def test_a_page_that_cannot_be_written_is_told_at_once(made, tmp_path, capsys, out, says):
    assert command.main([str(made / "made-0"), "--out", str(tmp_path / out)]) == 2
    assert says in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_odd_but_readable_files_make_a_page(made, tmp_path):
    """Counts without a value, a table cut short, bytes that are no text, a run of evaluations only."""
    folder = shutil.copytree(made / "made-0", tmp_path / "run")
    (folder / "heldout.md").write_bytes(b"\xff| a |\n|b|\n|c|\n\n| type |\n")
    (folder / "metrics.jsonl").write_text(
        '{"step": 0, "heldout": {"deduction/1": 0.5}, "gate/deduction/valid": null}\n')
    (folder / "samples.jsonl").unlink()
    page.write_page([folder], tmp_path / "page.html", workers=1, require="weak")
    assert "Held-out accuracy as a table" in (tmp_path / "page.html").read_text()


def test_a_page_can_be_made_while_a_line_is_being_written(tmp_path):
    folder = synthetic(tmp_path, 2, 16)
    for name in ("metrics.jsonl", "samples.jsonl"):
        with open(folder / name, "a") as file:
            file.write('{"step": 3, "rew')
    assert read.read_history(folder).metrics[-1]["step"] == 2


@pytest.mark.quick
def test_a_failing_report_costs_a_line_not_the_run(tmp_path):
    said = []
    page.of_run(tmp_path, 1, "weak", said.append)
    assert len(said) == 1 and "no report" in said[0]


def test_nothing_that_training_calls_imports_it_or_what_it_needs():
    code = """
import sys, runfolder
assert not {"train", "sampler", "report", "matplotlib"} & set(sys.modules)
import report.page
assert not {"train", "sampler"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_machine_without_git_can_train(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert runfolder.machine("cpu")["commit"] == "unknown"


def test_mirrors_get_every_number_and_none_that_fails_ends_the_run(tmp_path, monkeypatch):
    cfg, said, got = Config(tensorboard=True, wandb=True, name="x"), [], []
    monkeypatch.setattr(runfolder, "say", lambda line: said.append(line))
    for name in ("torch.utils.tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    assert runfolder.mirrors(cfg, tmp_path, 0) == [] and all("pip install" in line for line in said)

    class Wandb:
        ids = []
        init = staticmethod(lambda id, **options: Wandb.ids.append(id))
        log = staticmethod(lambda values, step: got.append((step, values)))
    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    cfg.tensorboard = False
    said.clear()
    (mirror,) = runfolder.mirrors(cfg, tmp_path, 0)
    line = {"step": 2, "a": 1.5, "none": None, "list": [1], "heldout": {"deduction/1": 0.5}}
    mirror(line)
    assert got == [(2, {"step": 2, "a": 1.5, "heldout/deduction/1": 0.5})] and said == []

    # another run of that name is another run; a resumed one is the same
    runfolder.mirrors(cfg, tmp_path, 2), (tmp_path / "other").mkdir()
    runfolder.mirrors(cfg, tmp_path / "other", 0)
    assert Wandb.ids[0] == Wandb.ids[1] != Wandb.ids[2]

    def fail(*_, **__):
        raise RuntimeError("no login\nand more")
    Wandb.log = staticmethod(fail)
    mirror(line), mirror(line)
    assert said == ["note: --wandb stopped (RuntimeError: no login); metrics.jsonl goes on"]
    Wandb.init = staticmethod(fail)
    assert runfolder.mirrors(cfg, tmp_path, 0) == [] and "no login" in said[-1] and "\n" not in said[-1]


def test_tensorboard_holds_what_metrics_hold(tmp_path, monkeypatch):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(runfolder, "say", pytest.fail)
    for step in (0, 1):  # the second time as after --resume
        (mirror,) = runfolder.mirrors(Config(tensorboard=True), tmp_path, step)
        mirror({"step": step + 1, "reward/solve/deduction": step / 4, "solved_of_8/deduction": [1]})
    written = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    written.Reload()
    assert [(e.step, e.value) for e in written.Scalars("reward/solve/deduction")] == [(1, 0.0), (2, 0.25)]


def test_long_texts_are_cut_so_that_the_page_stays_small(made):
    run = read.read_history(made / "made-0")
    data, said = gallery.gallery([run], 41_000)
    assert len(data) < 41_500
    assert "left out" in said and "characters left out" in json.dumps(unpack(data, "chunk0"))
    assert len(unpack(data, "index")["step"]) == sum(s["kind"] == "propose" for s in run.samples)


def test_of_large_files_whole_steps_are_left_out(made, monkeypatch):
    monkeypatch.setattr(read, "MOST_BYTES", (made / "made-0" / "samples.jsonl").stat().st_size // 3)
    run = read.read_history(made / "made-0")
    assert run.every == 4 and {s["step"] for s in run.samples} == {4, 8, 12}


# --------------------------------------------------------------------------------------------------------------
# In a real browser

needs_browser = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "-")


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(made, width):
    path = made / "one.html"
    total = len(unpack(path.read_text(), "index")["step"])
    with browser.Browser(width, 844) as b:
        b.open(path.as_uri())
        b.until("document.querySelectorAll('#list li').length > 0")
        # the first screen: what came of it, the curve, an early and a late task, and no more to the right
        for what in (".verdict", ".first svg", ".card pre"):
            assert b.js("return document.querySelector(arguments[0]).getBoundingClientRect().bottom", what) < 844, what
        assert b.js("return [...document.querySelectorAll('body *')].every(e => e.closest('.scroll, svg, .skip')"
                    " || e.getBoundingClientRect().right <= innerWidth + 1)")
        b.js("document.querySelectorAll('[data-task]')[1].click()")
        b.until("document.querySelector('dialog[open] pre')")
        assert b.js("return document.getElementById('title').textContent") == "deduction, step 12"
        b.press("\ue00c")
        count = "parseInt(document.getElementById('count').textContent.replace(',', ''))"
        assert b.js(f"return {count}") == total

        # filters
        b.js("const f = document.getElementById('filters').elements; f.type.value = '0'; f.from.value = 3;"
             "f.to.value = 5; f.reason.dispatchEvent(new Event('input', {bubbles: true}))")
        kept = b.until(f"{count} < {total} && {count}")
        assert kept == sum(row["kind"] == "propose" and row["type"] == "deduction" and 3 <= row["step"] <= 5
                           for row in map(json.loads, open(made / "made-0" / "samples.jsonl")))
        b.js("document.querySelector('#filters [type=reset]').click()")
        b.until(f"{count} === {total}")

        # opens a task that holds markup, by keyboard
        b.js("const f = document.getElementById('filters').elements; f.type.value = '2'; f.reason.value = '0';"
             "f.text.dispatchEvent(new Event('input', {bubbles: true}));"
             "document.querySelector('#list button').focus()")
        b.press("\ue007")  # enter
        b.until("document.querySelector('dialog[open] pre')")
        b.js("document.querySelectorAll('#task details').forEach(d => d.open = true)")
        b.until("document.querySelectorAll('#task details pre').length > 3")
        text = b.js("return document.getElementById('task').innerText")
        assert EVIL in text and "References it was shown" in text
        assert b.js("return document.querySelectorAll('#task img, #task script').length") == 0
        title = b.js("return document.getElementById('title').textContent")
        b.press("\ue014")  # right
        b.until(f"document.getElementById('title').textContent !== {json.dumps(title)}"
                " || document.getElementById('before').disabled === false")
        b.press("\ue00c")  # escape
        b.until("!document.querySelector('dialog[open]')")

        # odd text shows as it is; the dialog gives the focus back
        b.js("const f = document.getElementById('filters').elements; f.type.value = '1'; f.reason.value = '';"
             "f.order.value = 'step'; f.text.dispatchEvent(new Event('input', {bubbles: true}));"
             "document.querySelector('#list button').focus(); document.activeElement.click()")
        b.until("document.querySelector('dialog[open] pre')")
        assert b.js("return document.getElementById('task').textContent.includes(String.fromCharCode(...arguments[0]))",
                    list(memoryview(ODD.encode("utf-16-le", "surrogatepass")).cast("H")))
        b.press("\ue00c")
        assert b.js("return document.activeElement === document.querySelector('#list button')")

        # everything that can be used has a name, and list entries are words
        b.js("document.querySelector('#filters [type=reset]').click()")
        used = b.until("[...document.querySelectorAll('button, input, select, a, svg, [tabindex]')].filter(e =>"
                       " e.checkVisibility() && e.id !== 'title' && !e.closest('svg *, #list li:nth-child(n + 3)'))")
        names = [b.name(element) for element in used]
        assert all(names) and any(re.match(r"step \d+ (de|ab|in)duction .* reward ", name) for name in names)

        # a page further, and the focus is at its start
        b.js("document.getElementById('on').click()")
        assert "page 2 of" in b.js("return document.getElementById('count').textContent")
        assert b.js("return document.activeElement === document.querySelector('#list button')")

        # theme, width, and what left the page
        look = "return [document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor]"
        before = b.js(look)
        b.js("document.getElementById('theme').click()")
        after = b.js(look)
        assert {before[0], after[0]} == {"light", "dark"} and before[1] != after[1]
        assert b.js("return document.documentElement.scrollWidth <= innerWidth")
        assert b.js("return document.title") == "made-0: what it learned"
        console, asked = b.logs()
        assert console == [] and all(url.startswith(("data:", path.as_uri())) for url in asked)


@pytest.mark.slow
def test_50_000_samples_make_a_page_of_15_mb(tmp_path):
    """Prints what LOG.md quotes: seconds to make it, its size, milliseconds to the first paint."""
    folder = synthetic(tmp_path, 500, 120, words=60)
    rows = sum(1 for _ in open(folder / "samples.jsonl"))
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "report", str(folder), "--require", "weak"], text=True,
                          cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    path = folder / "report.html"
    print(f"{rows} samples, {(folder / 'samples.jsonl').stat().st_size / 1e6:.0f} MB;"
          f" {time.monotonic() - started:.1f} s of wall time; {done.stdout.strip()}")
    assert rows >= 50_000 and path.stat().st_size <= 15e6
    if not browser.missing():
        with browser.Browser() as b:
            b.open(path.as_uri())
            b.until("document.querySelectorAll('#list li').length > 0")
            print("paint:", b.js("return performance.getEntriesByType('paint').map(e => [e.name, e.startTime])"),
                  "listed:", b.js("return performance.now()"), os.getloadavg())

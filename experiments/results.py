"""
What came of the runs: gains over the model before training with their intervals, as JSON, as a table and as a plot.
"""
import json
import math
import os
import platform
import statistics
from collections import defaultdict
from pathlib import Path

import runfolder
import tasks
from benchmarks import stats
from config import PRESETS
from experiments.arms import (EXPERIMENTS, HERE, PASS_N, PASS_TASKS, SAMPLED, SAMPLED_START, Plan, run_folder,
                              scores_by_seed, scores_of, start_folder)

# Student's t, 97.5%, by degrees of freedom: seeds - 1.
STUDENT = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
DEPTHS = (1, 2, 3)       # of the headline; 4 is rare in the warm start and reported apart


def write_results(plan: Plan) -> str:
    """The table; everything to runs/, with --publish to results/."""
    everything, folder = results_of(plan), HERE / "results" if plan.publish else Path("runs")
    if not everything["arms"]:
        return "no arm has ended yet"
    text = results_table(everything)
    folder.mkdir(exist_ok=True)
    runfolder.write_file(folder / f"{plan.name}.json", json.dumps(everything, indent=1) + "\n")
    runfolder.write_file(folder / f"{plan.name}.md", text)
    plot(everything, folder / f"{plan.name}.png")
    return text


# ----------------------------------------------------------------------------------------------------------------
# Statistics

def cells_of(heldout: list[dict], depths: tuple, types: list[str] | None = None) -> dict[tuple, list[int]]:
    """(type, depth): indices of its tasks."""
    cells = defaultdict(list)
    for i, task in enumerate(heldout):
        depth = task["program"].count("\n") - 1
        if depth in depths and (types is None or task["type"] in types):
            cells[task["type"], depth].append(i)
    return cells


def average(values: list[float], cells: dict) -> float:
    """The mean over cells of the mean over a cell's tasks."""
    return statistics.mean(statistics.mean(values[i] for i in cell) for cell in cells.values())


def half_width(differences_S: list[list[float]], heldout: list[dict], cells: dict) -> float:
    """Half of the 95% interval of `average` of the differences, one list of them (by task) a seed: seeds and tasks are
    drawn independently, so their variances add. Tasks: each program's residuals are summed before they are squared.
    The chance in one answer is in both terms, so the interval is a little too wide."""
    seeds, residual = len(differences_S), defaultdict(float)
    mean_I = [statistics.mean(column) for column in zip(*differences_S)]
    for cell in cells.values():
        middle = statistics.mean(mean_I[i] for i in cell)
        for i in cell:  # a program may be in several cells
            residual[heldout[i]["program"]] += (mean_I[i] - middle) / len(cell) / len(cells)
    variance = sum(value * value for value in residual.values())
    spread = 0.0
    if seeds > 1:
        of_seed = [average(differences, cells) for differences in differences_S]
        spread = STUDENT[min(seeds - 1, max(STUDENT))] * statistics.stdev(of_seed) / math.sqrt(seeds)
    return math.sqrt(spread ** 2 + 1.96 ** 2 * variance)


# ----------------------------------------------------------------------------------------------------------------
# All that is there so far

def results_of(plan: Plan) -> dict:
    """For the JSON file."""
    heldout = runfolder.read_lines(Path(PRESETS[plan.preset]["heldout_tasks"]))[:plan.limit]
    start, azr = scores_of(start_folder(plan), plan.limit), {}
    everything = {"experiment": plan.name, "preset": plan.preset, "steps": plan.steps, "limit": plan.limit,
                  "commits": [start["commit"]], "machine": f"{os.cpu_count()} x {platform.machine()}", "arms": {}}
    for arm, flags in EXPERIMENTS[plan.name].items():
        scores = scores_by_seed(plan, arm)
        if not scores:
            continue
        azr = scores if arm == "azr" else azr
        logs = [runfolder.read_lines(run_folder(plan, arm, seed) / "metrics.jsonl") for seed in scores]
        entry = {"flags": flags, "seeds": list(scores),
                 "measures": measures_of(scores, start, {} if arm == "azr" else azr, heldout),
                 "tokens": list(map(tokens_of, logs)), "curves": list(map(curves_of, logs))}
        if all("pass" in of_seed for of_seed in scores.values()):
            entry["pass_at_k"] = [pass_curve(of_seed["pass"]) for of_seed in scores.values()]
        everything["arms"][arm] = entry
        everything["commits"] = sorted({*everything["commits"], *(of_seed["commit"] for of_seed in scores.values())})
    everything["pass_at_k_before"] = pass_curve(start["pass"])
    everything["seeds"] = max((len(entry["seeds"]) for entry in everything["arms"].values()), default=0)
    return everything


def measures_of(scores: dict[int, dict], start: dict, azr: dict[int, dict], heldout: list[dict]) -> dict[str, dict]:
    """{measure: its values}, in percent and points, of an arm's scores by seed: before and after training, and how far
    the scores `azr` are ahead where they have a seed in common."""
    types = {task["type"] for task in heldout}
    kinds = {"T1": ("sampled", DEPTHS, None), "greedy": ("greedy", DEPTHS, None),
             "T1 depth 4": ("sampled", (4,), None), "greedy depth 4": ("greedy", (4,), None),
             **{f"T1 {name}": ("sampled", DEPTHS, [name]) for name in tasks.TYPES if name in types}}
    measures = {}
    for measure, (key, depths, only) in kinds.items():
        cells, n, n_start = cells_of(heldout, depths, only), *((SAMPLED, SAMPLED_START) if key == "sampled" else (1, 1))
        before = [solved / n_start for solved in start[key]]
        rates = {seed: [solved / n for solved in of_seed[key]] for seed, of_seed in scores.items()}
        gains = [[after - was for after, was in zip(rate, before)] for rate in rates.values()]
        measures[measure] = {
            "before": 100 * average(before, cells), "after": [100 * average(rate, cells) for rate in rates.values()],
            "gain": 100 * statistics.mean(average(gain, cells) for gain in gains),
            "interval": 100 * half_width(gains, heldout, cells)}
        if both := [seed for seed in rates if seed in azr]:
            lead = [[solved / n - rate for solved, rate in zip(azr[seed][key], rates[seed])] for seed in both]
            measures[measure] |= {
                "azr_ahead_seeds": both, "azr_ahead": 100 * statistics.mean(average(one, cells) for one in lead),
                "azr_ahead_interval": 100 * half_width(lead, heldout, cells)}
    return measures


def pass_curve(solved: list[int]) -> dict[int, float]:
    return {k: 100 * statistics.mean(stats.pass_at_k(PASS_N, c, k) for c in solved)
            for k in (1, 2, 4, 8, 16, 32, 64)}


def tokens_of(lines: list[dict]) -> dict:
    return {key: sum(line.get(key, 0) for line in lines) for key in ("tokens_generated", "tokens_trained")}


def curves_of(lines: list[dict]) -> dict:
    """By step: held-out accuracy where it was measured, and what became of the proposals."""
    curves = defaultdict(list)
    for line in lines:
        for key, name in (("heldout", "greedy"), ("heldout_sampled", "T1")):
            if key in line:
                rates = [rate for cell, rate in line[key].items() if int(cell.split("/")[1]) in DEPTHS]
                curves[name].append((line["step"], round(100 * statistics.mean(rates), 2)))
        for key in ("depth", "valid", "solve_rate", "learnability", "distinct"):
            values = [line[f"{key}/{type}"] for type in tasks.TYPES if line.get(f"{key}/{type}") is not None]
            if values:
                curves[key].append((line["step"], round(statistics.mean(values), 3)))
    return curves


# ----------------------------------------------------------------------------------------------------------------
# Table and plot

def results_table(everything: dict) -> str:
    lines = [f"`python -m experiments {everything['experiment']} --steps {everything['steps']} --seeds"
             f" {everything['seeds']} --limit {everything['limit']}`, commit {', '.join(everything['commits'])},"
             f" {everything['machine']}. Held-out pass@1 in percent, mean over types and depths 1 to 3; gains in points"
             " over the model before training; 95% intervals over seeds and tasks; of one seed over tasks alone, in"
             " brackets. AZR ahead: over the seeds that both have.", "",
             "| arm | seeds | T = 1 before | after | gain | greedy gain | depth 4, T = 1 | AZR ahead at T = 1 |"
             " AZR ahead, greedy | million tokens generated / trained |", "|---" * 10 + "|"]
    for arm, entry in everything["arms"].items():
        m, seeds = entry["measures"], len(entry["seeds"])
        tokens = [f"{statistics.mean(run[f'tokens_{what}'] for run in entry['tokens']) / 1e6:.2f}"
                  for what in ("generated", "trained")]
        gains = [with_interval(m[name]["gain"], m[name]["interval"], seeds) for name in ("T1", "greedy", "T1 depth 4")]
        ahead = [with_interval(m[name]["azr_ahead"], m[name]["azr_ahead_interval"], len(m[name]["azr_ahead_seeds"]))
                 if "azr_ahead" in m[name] else "-" for name in ("T1", "greedy")]
        cells = [arm, str(seeds), f"{m['T1']['before']:.1f}", f"{statistics.mean(m['T1']['after']):.1f}", *gains,
                 *ahead, " / ".join(tokens)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines + pass_table(everything)) + "\n"


def with_interval(value: float, interval: float, seeds: int) -> str:
    text = f"{value:+.1f} ± {interval:.1f}"
    return f"({text})" if seeds == 1 else text


def pass_table(everything: dict) -> list[str]:
    before = everything["pass_at_k_before"]
    rows = {arm: {k: statistics.mean(curve[k] for curve in entry["pass_at_k"]) for k in before}
            for arm, entry in everything["arms"].items() if "pass_at_k" in entry}
    if not rows:
        return []
    lines = ["", f"Of {PASS_N} answers to the first {PASS_TASKS} tasks, all depths:", "",
             "| pass@k | " + " | ".join(map(str, before)) + " |", "|---" * (1 + len(before)) + "|"]
    return lines + [f"| {name} | " + " | ".join(f"{rate:.1f}" for rate in rates.values()) + " |"
                    for name, rates in ({"before": before} | rows).items()]


def plot(everything: dict, path: Path) -> None:
    """Gains with their intervals, a row an arm, at T = 1 and greedily: of the tasks that the table is about. As wide as
    a README, so that its letters are as large as the text's."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: pip install matplotlib")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot
    arms = everything["arms"]
    figure, panels = pyplot.subplots(1, 2, figsize=(8.4, 1.3 + 0.3 * len(arms)), sharey=True, layout="constrained")
    for axes, name, title in zip(panels, ("T1", "greedy"), ("T = 1", "greedy")):
        for row, (arm, entry) in enumerate(arms.items()):
            m, color = entry["measures"][name], "#1f5fb0" if arm == "azr" else "#444444"
            if len(m["after"]) > 1:
                axes.plot([after - m["before"] for after in m["after"]], [row] * len(m["after"]), "|", color=color,
                          alpha=0.5, ms=9)
            axes.errorbar(m["gain"], row, xerr=m["interval"], fmt="o", color=color, ms=5, lw=1.8, capsize=3)
            axes.annotate(with_interval(m["gain"], m["interval"], 2), (1.04, row), xycoords=("axes fraction", "data"),
                          va="center", fontsize=9, color=color)
            if arm == "azr":
                axes.axvline(m["gain"], color=color, lw=0.8, ls=":")
        axes.axvline(0, color="black", lw=0.8)
        axes.set_title(f"{title} (before training {entry['measures'][name]['before']:.1f}%)", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set(yticks=range(len(arms)), yticklabels=list(arms))
    panels[0].invert_yaxis()
    panels[1].tick_params(left=False)
    several = max(len(entry["seeds"]) for entry in arms.values()) > 1
    figure.supxlabel("gain in points, mean over types and depths 1 to 3; 95% intervals over "
                     + ("seeds and tasks; small strokes: seeds" if several else "tasks, one seed"), fontsize=10)
    figure.savefig(path, dpi=200)
    pyplot.close(figure)

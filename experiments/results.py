"""
What came of the runs: gains over the model before training with their intervals, as JSON, as a table and as a plot.
"""
import json
import math
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import runfolder
import tasks
from benchmarks import selfplay, stats
from experiments import plots
from experiments.arms import (EXPERIMENTS, HERE, LETTERS, NANO, PART, PASS_N, PASS_TASKS, SAMPLED, SAMPLED_START,
                              Plan, heldout_file, run_folder, scores_by_seed, scores_of, start_folder)

# Student's t, 97.5%, by degrees of freedom: seeds - 1.
STUDENT = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
LEARNABLE = ("dose 3%", "dose 10%", "dose 30%")  # groups of nano's held-out file that drafts learned in 30 steps
OVER_STEPS = ("valid", "learnability", "solve_rate", "dull", "behaviours", "form", "depth", "entropy/propose",
              "entropy/solve")   # columns of the table over the steps
AGAINST = {"swap": "late"}       # the arm that an experiment compares the others with; else self-play


def write_results(plan: Plan) -> str:
    """The table; everything to runs/, with --publish to results/."""
    everything, folder = results_of(plan), HERE / "results" if plan.publish else Path("runs")
    if not everything["arms"]:
        return "no arm has ended yet"
    text = results_table(everything)
    name = plan.name if plan.model == NANO["model"] else f"{plan.name}-{Path(plan.model).resolve().name}"
    folder.mkdir(exist_ok=True)
    runfolder.write_file(folder / f"{name}.json", json.dumps(everything, indent=1) + "\n")
    runfolder.write_file(folder / f"{name}.md", text)
    plots.plot(everything, folder / f"{name}.png")
    if plan.name == "length":
        plots.plot_over_steps(everything, folder / f"{name}-curves.png")
    return text


# ----------------------------------------------------------------------------------------------------------------
# Statistics

def cells_of(heldout: list[dict], type: str | None = None, groups: tuple[str, ...] | None = None
             ) -> dict[tuple, list[int]]:
    """(type, group, depth): indices of its tasks; of one type or of some groups only."""
    cells = defaultdict(list)
    for i, task in enumerate(heldout):
        group = task.get("group", "")
        if type in (None, task["type"]) and (groups is None or group in groups):
            cells[task["type"], group, task["program"].count("\n") - 1].append(i)
    return cells


def average(values: list[float], cells: dict) -> float:
    """The mean over cells of the mean over a cell's tasks."""
    return statistics.mean(statistics.mean(values[i] for i in cell) for cell in cells.values())


def half_width(differences_S: list[list[float]], heldout: list[dict], cells: dict) -> float:
    """Half of the 95% interval of `average` of the differences, one list of them (by task) a seed: seeds and tasks are
    drawn independently, so their variances add. Tasks: each program's residuals are summed before they are squared.
    The chance in one answer is in both terms, so the interval is a little too wide."""
    sizes = {cell: len({heldout[i]["program"] for i in numbers}) for cell, numbers in cells.items()}
    seeds, residual = len(differences_S), defaultdict(float)
    mean_I = [statistics.mean(column) for column in zip(*differences_S)]
    for name, cell in cells.items():
        middle = statistics.mean(mean_I[i] for i in cell)
        unbiased = math.sqrt(sizes[name] / max(1, sizes[name] - 1))
        for i in cell:  # a program may be in several cells
            residual[heldout[i]["program"]] += unbiased * (mean_I[i] - middle) / len(cell) / len(cells)
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
    heldout = runfolder.read_lines(heldout_file(plan.model))[:plan.limit]
    start, against = scores_of(start_folder(plan), plan.limit), AGAINST.get(plan.name, "self-play")
    everything = {"experiment": plan.name, "model": "nano" if plan.model == NANO["model"] else plan.model,
                  "steps": plan.steps, "limit": plan.limit, "commits": [start["commit"]],
                  "machine": f"{os.cpu_count()} x {platform.machine()}",
                  "groups": groups_of(heldout), "against": against,
                  "families": {line["family"]: line["group"] for line in heldout if line.get("family")},
                  "free_how": start["free_how"],
                  "free": measures_of({0: {"greedy": start["free"]}}, start, {}, heldout), "arms": {}}
    reference = scores_by_seed(plan, against)
    for arm, flags in EXPERIMENTS[plan.name].items():
        scores = scores_by_seed(plan, arm)
        if not scores:
            continue
        logs = [runfolder.read_lines(run_folder(plan, arm, seed) / "metrics.jsonl") for seed in scores]
        entry = {"flags": flags, "seeds": list(scores),
                 "measures": measures_of(scores, start, {} if arm == against else reference, heldout),
                 "tokens": list(map(tokens_of, logs)), "curves": list(map(curves_of, logs)),
                 "proposed": [of_seed.get("proposed", []) for of_seed in scores.values()]}
        if all("pass" in of_seed for of_seed in scores.values()):
            entry["pass_at_k"] = [pass_curves(of_seed["pass"], heldout) for of_seed in scores.values()]
        everything["arms"][arm] = entry
        everything["commits"] = sorted({*everything["commits"], *(of_seed["commit"] for of_seed in scores.values())})
        if all("longer" in of_seed for of_seed in [start, *scores.values()]):
            entry["longer"] = [of_seed["longer"] for of_seed in scores.values()]
            everything |= {f"{name}_before": start[name] for name in ("longer", "longer_pass")}
    everything["pass_at_k_before"] = pass_curves(start["pass"], heldout)
    everything["seeds"] = max((len(entry["seeds"]) for entry in everything["arms"].values()), default=0)
    return everything


def groups_of(heldout: list[dict]) -> list[str]:
    return selfplay.group_names(line.get("group", "") for line in heldout)


def measures_of(scores: dict[int, dict], start: dict, against: dict[int, dict], heldout: list[dict]
                ) -> dict[str, dict]:
    """{measure: its values}, in percent and points, of an arm's scores by seed: before and after training, and how far
    the scores `against` are ahead where they have a seed in common."""
    types, groups = {task["type"] for task in heldout}, groups_of(heldout)
    kinds = {"greedy": ("greedy", None, None), "T1": ("sampled", None, None),
             **{f"greedy {name}": ("greedy", name, None) for name in tasks.TYPES if name in types},
             **{f"{how} {name}": (key, None, (name,)) for name in groups
                for how, key in (("greedy", "greedy"), ("T1", "sampled"))}}
    if set(LEARNABLE) <= set(groups):
        kinds |= {"greedy learnable": ("greedy", None, LEARNABLE)}
    measures = {}
    for measure, (key, type, some) in kinds.items():
        if any(key not in of_seed for of_seed in scores.values()):
            continue
        cells, n, n_start = cells_of(heldout, type, some), *((SAMPLED, SAMPLED_START) if key == "sampled" else (1, 1))
        before = [solved / n_start for solved in start[key]]
        rates = {seed: [solved / n for solved in of_seed[key]] for seed, of_seed in scores.items()}
        gains = [[after - was for after, was in zip(rate, before)] for rate in rates.values()]
        measures[measure] = {
            "before": 100 * average(before, cells), "after": [100 * average(rate, cells) for rate in rates.values()],
            "gain": 100 * statistics.mean(average(gain, cells) for gain in gains),
            "interval": 100 * half_width(gains, heldout, cells)}
        if both := [seed for seed in rates if seed in against]:
            lead = [[solved / n - rate for solved, rate in zip(against[seed][key], rates[seed])] for seed in both]
            measures[measure] |= {
                "ahead_seeds": both, "ahead": 100 * statistics.mean(average(one, cells) for one in lead),
                "ahead_interval": 100 * half_width(lead, heldout, cells)}
    return measures


def pass_curves(solved: list[int], heldout: list[dict]) -> dict[str, dict[int, float]]:
    """pass@k of the tasks of each group, and of all."""
    curves = {"all": pass_curve(solved)}
    for group in groups_of(heldout):
        some = [count for count, task in zip(solved, heldout) if task.get("group", "") == group]
        curves |= {group: pass_curve(some)} if some else {}
    return curves


def pass_curve(solved: list[int]) -> dict[int, float]:
    return {k: 100 * statistics.mean(stats.pass_at_k(PASS_N, c, k) for c in solved)
            for k in (1, 2, 4, 8, 16, 32, 64)}


def tokens_of(lines: list[dict]) -> dict:
    return {key: sum(line.get(key, 0) for line in lines) for key in ("tokens_generated", "tokens_trained")}


def curves_of(lines: list[dict]) -> dict:
    """By step: held-out accuracy where it was measured, by group too, and what became of the proposals."""
    curves = defaultdict(list)
    for line in lines:
        for key, name in (("heldout", "greedy"), ("heldout_sampled", "T1")):
            if key in line:
                curves[name].append((line["step"], round(100 * statistics.mean(line[key].values()), 2)))
        for group, (share, *_) in (line.get("heldout_by_group") or {}).items():
            curves[f"greedy {group}"].append((line["step"], round(100 * share, 2)))
        for key in ("depth", "valid", "solve_rate", "learnability", "distinct", "entropy/propose", "entropy/solve"):
            values = [line[name] for type in tasks.TYPES if line.get(name := f"{key}/{type}") is not None]
            if values:
                curves[key].append((line["step"], round(statistics.mean(values), 3)))
    return curves


# ----------------------------------------------------------------------------------------------------------------
# Tables

def results_table(everything: dict) -> str:
    groups, against = everything["groups"], everything["against"]
    ahead = f"{against} ahead"
    model = "" if everything["model"] == "nano" else f" --model {everything['model']}"
    lines = [f"`python -m experiments {everything['experiment']}{model} --steps {everything['steps']} --seeds"
             f" {everything['seeds']} --limit {everything['limit']}`, commit {', '.join(everything['commits'])},"
             f" {everything['machine']}. Greedy held-out accuracy in percent, mean over types, groups and depths; gains"
             " in points over the model before training; 95% intervals over seeds and programs; of one seed over"
             f" programs alone, in brackets. {against} ahead: over the seeds that both have.", "",
             f"| {' | '.join(['arm', 'seeds', 'before', 'after', 'gain', *(f'gain, {name}' for name in groups)])}"
             f" | gain at T = 1 | {ahead} | {ahead}, {', '.join(LEARNABLE)} | million tokens generated / trained |"]
    lines.append("|---" * lines[-1].count(" | ") + "|---|")
    free = everything["free"]
    lines.append(f"| {' | '.join(['without training', '-', *told(free, groups, 1)])} | - | - | - | - |")
    for arm, entry in everything["arms"].items():
        m, seeds = entry["measures"], len(entry["seeds"])
        tokens = [f"{statistics.mean(run[f'tokens_{what}'] for run in entry['tokens']) / 1e6:.2f}"
                  for what in ("generated", "trained")]
        leads = [with_interval(m[name]["ahead"], m[name]["ahead_interval"], len(m[name]["ahead_seeds"]))
                 if "ahead" in m.get(name, {}) else "-" for name in ("greedy", "greedy learnable")]
        cells = [arm, str(seeds), *told(m, groups, seeds), with_interval(m["T1"]["gain"], m["T1"]["interval"], seeds),
                 *leads, " / ".join(tokens)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Without training: the model before training, where {everything['free_how']}."]
    tables = (sampled_table, longer_table, pass_table, proposals_table, steps_table)
    return "\n".join(sum((table(everything) for table in tables), lines)) + "\n"


def told(measures: dict, groups: list[str], seeds: int) -> list[str]:
    """Cells of a row: before, after, gain, gain by group."""
    all_tasks = measures["greedy"]
    gains = [with_interval(m["gain"], m["interval"], seeds)
             for m in (all_tasks, *(measures[f"greedy {name}"] for name in groups))]
    return [f"{all_tasks['before']:.1f}", f"{statistics.mean(all_tasks['after']):.1f}", *gains]


def with_interval(value: float, interval: float, seeds: int) -> str:
    text = f"{value:+.1f} ± {interval:.1f}"
    return f"({text})" if seeds == 1 else text


def sampled_table(everything: dict) -> list[str]:
    """At T = 1 by group."""
    arms, groups = everything["arms"], everything["groups"]
    lines = ["", "Percent right at T = 1, before and after:", "",
             f"| arm | {' | '.join(['all', *groups])} |", "|---" * (2 + len(groups)) + "|"]
    for arm, entry in arms.items():
        measures = [entry["measures"][name] for name in ("T1", *(f"T1 {group}" for group in groups))]
        cells = [f"{m['before']:.1f} -> {statistics.mean(m['after']):.1f}" for m in measures]
        lines.append(f"| {' | '.join([arm, *cells])} |")
    return lines


def longer_table(everything: dict) -> list[str]:
    rows = {arm: entry["longer"] for arm, entry in everything["arms"].items() if "longer" in entry}
    if not rows:
        return []
    rows = {"before": [everything["longer_before"]],
            f"before, one of {PASS_N} at T = 1": [everything["longer_pass_before"]]} | rows
    lines = ["", "Percent of tasks solved greedily of one statement and a string of so many letters (in the first"
             " training inputs had six at most, values ten); in brackets of those that reverse it:", "",
             f"| letters | {' | '.join(map(str, LETTERS))} |", "|---" * (1 + len(LETTERS)) + "|"]
    for name, seeds in rows.items():
        cells = ["{:.0f} ({:.0f})".format(*map(statistics.mean, zip(*of_seeds))) for of_seeds in zip(*seeds)]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return lines


def pass_table(everything: dict) -> list[str]:
    """pass@1 and pass@64 by group."""
    rows = {arm: entry["pass_at_k"] for arm, entry in everything["arms"].items() if "pass_at_k" in entry}
    before = everything["pass_at_k_before"]
    lines = ["", "One of k answers at T = 1 is right, in percent, of the first"
             f" {min(PASS_TASKS, everything['limit'])} tasks ({PASS_N} answers each):", "",
             f"| k = 1 / k = {PASS_N} | {' | '.join(before)} |", "|---" * (1 + len(before)) + "|"]
    for name, seeds in ({"before": [before]} | rows).items():
        cells = [" / ".join(f"{statistics.mean(of_seed[group][k] for of_seed in seeds):.1f}" for k in (1, PASS_N))
                 for group in before]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def proposals_table(everything: dict) -> list[str]:
    """What arms proposed themselves, in the first and the last part of their steps."""
    rows = {arm: [of_seed for of_seed in entry["proposed"] if of_seed] for arm, entry in everything["arms"].items()
            if any(entry["proposed"])}
    if not rows:
        return []
    families = list(next(iter(rows.values()))[0][0]["families"])
    lines = ["", f"Proposed programs in the first and the last {PART} steps: percent that hold a"
             " family, any of them, percent that return their argument, mean depth:", "",
             f"| arm | {' | '.join(families)} | any | dull | depth |", "|---" * (len(families) + 4) + "|"]
    for arm, seeds in rows.items():
        def both(value: Callable[[dict], float], form: str, some: list = seeds) -> str:
            return " -> ".join(format(statistics.mean(value(of_seed[part]) for of_seed in some), form)
                               for part in (0, -1))
        cells = [both(lambda part, name=name: 100 * part["families"][name], ".1f") for name in families]
        cells += [both(lambda part: 100 * part["any"], ".0f"), both(lambda part: 100 * part["dull"], ".0f"),
                  both(lambda part: part["depth"], ".2f")]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def steps_table(everything: dict) -> list[str]:
    """How arms went that propose: means over seeds, types and PART steps, seven times in a run at most."""
    lines = ["", f"Over the steps, means of {PART}. Valid proposals, learnability, tasks solved; of the programs those"
             " that return their argument, different behaviours, the commonest but for its numbers and letters;"
             " mean depth; entropy of a token in nats:", "",
             "| arm | steps | valid | learnability | solved | dull | different | of one form | depth"
             " | entropy, propose | entropy, solve |",
             "|---" * 11 + "|"]
    for arm, entry in everything["arms"].items():
        columns = {name: plots.by_part(entry, name) for name in OVER_STEPS}
        last = max(columns["dull"], default=0)
        for number in sorted({round(sixth * last / 6) for sixth in range(7)}) if columns["dull"] else ():
            cells = [f"{column[number]:.3f}" if number in column else "-" for column in columns.values()]
            lines.append(f"| {' | '.join([arm, f'{number * PART + 1} to {(number + 1) * PART}', *cells])} |")
    return lines if len(lines) > 5 else []

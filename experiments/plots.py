"""
Plots of the experiments, as wide as a README, so that their letters are as large as the text's.
"""
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from experiments.arms import PART

COLORS = ["#222222", "#1f5fb0", "#d9822b", "#4c9a52", "#8a5ab5", "#c0392b", "#7f8c8d", "#2aa198", "#b58900", "#d33682"]
# Of the lowest panel: what work.proposals_of tells, and what metrics.jsonl does.
LABELS = {"dull": "return their argument", "behaviours": "different behaviours", "form": "of one form",
          "learnability": "learnability", "solve_rate": "tasks solved", "entropy/propose": "entropy, proposals",
          "entropy/solve": "entropy, answers"}


def load_pyplot():
    """None where matplotlib is missing, which is said."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: pip install matplotlib")
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot
    return pyplot


def plot(everything: dict, path: Path) -> None:
    """Greedy gains with their intervals, a colour an arm: by group where the held-out file names groups, and on the
    whole. Beside it the share of proposals that hold each family, over the steps, where arms proposed."""
    if not (pyplot := load_pyplot()):
        return
    rows = {"without training": everything["free"]} | {arm: entry["measures"]
                                                       for arm, entry in everything["arms"].items()}
    names = ["all", *everything["groups"]]
    proposing = {arm: seeds for arm, entry in everything["arms"].items()
                 if arm in ("self-play", "solver only") and (seeds := list(filter(None, entry["proposed"])))}
    figure, panels = pyplot.subplots(1, 2 if proposing else 1, figsize=(8.4, 3.6 + 0.12 * len(rows)), squeeze=False,
                                     layout="constrained", width_ratios=[2, 1] if proposing else [1])
    left = panels[0][0]
    for row, (arm, m) in enumerate(rows.items()):
        for place, name in enumerate(names):
            one = m["greedy" if name == "all" else f"greedy {name}"]
            left.errorbar(place + 0.8 * ((row + 0.5) / len(rows) - 0.5), one["gain"], yerr=one["interval"],
                          fmt="osD"[row // len(COLORS)], color=COLORS[row % len(COLORS)], ms=3.5, lw=1.2,
                          label="" if place else arm)
    before = [everything["free"]["greedy" if name == "all" else f"greedy {name}"]["before"] for name in names]
    left.set(xticks=range(len(names)), ylabel="gain in points")
    left.set_xticklabels([f"{name.removeprefix('dose ')}\n({value:.0f}%)" for name, value in zip(names, before)])
    left.axhline(0, color="black", lw=0.8)
    left.set_xlabel("held-out tasks: all, and by group (in brackets what is solved before training)")
    for number, seeds in enumerate(proposing.values()):
        draw_families(panels[0][1], everything, seeds, ":" if number else "-")
    if proposing:
        panels[0][1].set(xlabel="step" + " (dotted: solver only)" * (len(proposing) > 1),
                         ylabel="% of proposed programs with a family")
        panels[0][1].legend(frameon=False, fontsize=7)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save(pyplot, figure, panels, path)


def draw_families(axes, everything: dict, seeds: list[list[dict]], style: str = "-") -> None:
    """Percent of the proposed programs with each family, a colour a group, over the steps; the mean over seeds."""
    for family, group in sorted(everything["families"].items(), key=lambda pair: everything["groups"].index(pair[1])):
        shares = means((part["part"], 100 * part["families"][family]) for of_seed in seeds for part in of_seed)
        draw_parts(axes, shares, style, color=color_of(everything, group),
                   label="" if style == ":" else f"{family}, {group}")


def by_part(entry: dict, name: str) -> dict[int, float]:
    """The mean over an arm's seeds for each part of the steps, of what work.proposals_of tells, else metrics.jsonl."""
    told = [(part["part"], part[name]) for of_seed in entry["proposed"] for part in of_seed if name in part]
    return means(told or (((step - 1) // PART, value) for curves in entry["curves"]
                          for step, value in curves.get(name, [])))


def means(points: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Of the values at each place, in the order of the places."""
    values = defaultdict(list)
    for place, value in points:
        values[place].append(value)
    return {place: statistics.mean(values[place]) for place in sorted(values)}


def draw_parts(axes, by_part: dict[int, float], style: str = "-", **more) -> None:
    axes.plot([PART * (number + 0.5) for number in by_part], list(by_part.values()), style, lw=1.5, **more)


def color_of(everything: dict, group: str) -> str:
    return COLORS[everything["groups"].index(group)]


def plot_over_steps(everything: dict, path: Path) -> None:
    """A column an arm that proposes, means over seeds: held-out accuracy by group (the curve's tasks, greedily; means
    of three points), families among the proposals, and what else became of them."""
    arms = {arm: entry for arm, entry in everything["arms"].items() if any(entry["proposed"])}
    if not arms or not (pyplot := load_pyplot()):
        return
    figure, panels = pyplot.subplots(3, len(arms), figsize=(8.4, 8.4), squeeze=False, layout="constrained",
                                     sharex=True, sharey="row")
    for column, (arm, entry) in enumerate(arms.items()):
        top, middle, bottom = (row[column] for row in panels)
        for group in everything["groups"]:
            draw_curve(top, [curves.get(f"greedy {group}", []) for curves in entry["curves"]],
                       color=color_of(everything, group), label=group)
        draw_curve(top, [curves.get("greedy", []) for curves in entry["curves"]], color="black", label="all", lw=2.5)
        draw_families(middle, everything, entry["proposed"])
        for number, (name, label) in enumerate(LABELS.items()):
            draw_parts(bottom, by_part(entry, name), color=COLORS[number], label=label)
        top.set_title(arm, fontsize=10)
        bottom.set_xlabel("step")
    for row, label in zip(panels, ("% of held-out tasks solved", "% of proposed programs", "share, or nats")):
        row[0].set_ylabel(label)
        row[-1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    save(pyplot, figure, panels, path)


def draw_curve(axes, seeds: list[list[tuple[int, float]]], lw: float = 1.2, **more) -> None:
    """The mean over seeds, and of three neighbouring points."""
    by_step = means(point for curve in seeds for point in curve)
    heights = list(by_step.values())
    smooth = [statistics.mean(heights[max(0, i - 1):i + 2]) for i in range(len(heights))]
    axes.plot(list(by_step), smooth, lw=lw, **more)


def save(pyplot, figure, panels, path: Path) -> None:
    for axes in (axes for row in panels for axes in row):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=200)
    pyplot.close(figure)

"""
The report's plots: what is drawn (MEASURES, with the words that explain it), panels from the series of runs, drawing
with matplotlib, and the same numbers as tables. Runs of one group (read.group) make one line, their mean, and a band,
their range.
"""
import html
import io
import re
import textwrap
from dataclasses import dataclass, field

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import tasks
from report.read import ROLES, History

matplotlib.rcParams |= {"svg.fonttype": "none", "text.parse_math": False, "font.size": 9, "axes.spines.top": False,
                        "axes.spines.right": False, "path.simplify_threshold": 0.3}

BINS = 100            # points of a line
TABLE_ROWS = 25
INK = "#010203"       # replaced by the page's text colour, so that one drawing serves both themes
# Told apart by colour-blind readers too, together with the dashes; at least 3:1 on white and on the dark page.
LOOKS = [("#2f7be0", "-"), ("#d9611a", "--"), ("#189a6b", "-."), ("#a259d9", ":"), ("#c2408a", "-"), ("#8a7a12", "--"),
         ("#0f94a8", "-."), ("#d1495b", ":")]


@dataclass(frozen=True)
class Measure:
    name: str
    section: str            # curves or findings
    title: str
    y: str
    meaning: str
    keys: tuple[str, ...]   # with {role} and {type}; panels of their own where there are several ...
    kind: str = "lines"     # or heat: keys hold lists of counts
    parts: tuple[str, ...] = ("",)  # ... with these names


MEASURES = [
    Measure("heldout", "first", "Held-out accuracy", "share correct",
            "Greedy answers to tasks that stay the same and are never trained on; band of one run: 95% interval.",
            ("accuracy/{type}",)),
    Measure("groups", "curves", "Held-out accuracy by group", "share correct",
            "The same answers by the groups that the held-out file names (--heldout_tasks), all task types together.",
            ("of_group/*",)),
    Measure("solve_rate", "curves", "Solve rate", "share correct",
            "The share of all answers of a step, probes included, that were right: to tasks that the proposer has just"
            " made. When they get harder it falls, though the model gets better, and when they get easier it rises."
            " Held-out tasks stay the same: beside it, they tell whether the model learns.",
            ("solve_rate/{type}", "accuracy/{type}"), parts=("the step's own tasks", "held-out tasks")),
    Measure("reward", "curves", "Reward", "mean reward",
            "Mean reward of the responses that were trained on. Proposals earn 1 minus the solve rate (0 if solved"
            " never or always), answers 1 if correct; wrong answers get -0.5, badly formatted responses -1. Answers"
            " earn less when tasks get harder, as under Solve rate.",
            ("reward/{role}/{type}",)),
    Measure("valid", "curves", "Valid proposals", "share valid",
            "Share of proposals that passed the checks (the gate): well-formed, parsed, allowed imports, ran, gave the"
            " same value in every process.",
            ("valid/{type}",)),
    Measure("gate", "curves", "Why proposals fail", "share of proposals",
            "Share of all proposals that failed these checks, by reason, most frequent reasons only.",
            ("gate/{type}/*",)),
    Measure("learnability", "curves", "Learnability over time", "answers solved, of n",
            "Each column is a stretch of steps, each row a number of solved probe answers; the stronger the blue, the"
            " larger the share of that stretch's valid tasks. Top and bottom row teach nothing.",
            ("solved_of_*/{type}",), "heat"),
    Measure("length", "curves", "Response length", "tokens",
            "Mean number of sampled tokens a response, the end token included.", ("length/{role}/{type}",)),
    Measure("cut_off", "curves", "Responses cut off", "share",
            "Share of responses that reached --max_new_tokens and were cut there.", ("cut_off/{role}/{type}",)),
    Measure("entropy", "curves", "Entropy", "nats a token",
            "Mean of -log p of the sampled tokens: an unbiased estimate of the policy's entropy at the sampling"
            " temperature. A fall towards 0 is a collapse, a steady rise a loss of form.", ("entropy/{role}/{type}",)),
    Measure("zero_advantage", "curves", "Responses without an advantage", "share",
            "Share of trained responses whose advantage is zero: they cost sampling and teach nothing.",
            ("zero_advantage/{role}/{type}",)),
    Measure("kl", "curves", "Sampler against trainer", "KL, nats a token",
            "KL divergence between the probabilities as sampled and as the update computes them. Rounding alone gives"
            " about 1e-10 in fp32 and 5e-4 in bf16; more is a mismatch.", ("kl_sampler_trainer",)),
    Measure("clip_frac", "curves", "Clipped ratios", "share of tokens",
            "Share of trained tokens whose probability ratio was clipped in the policy loss.", ("clip_frac",)),
    Measure("grad_norm", "curves", "Gradient norm", "norm", "Norm of the gradient before it is clipped.",
            ("grad_norm",)),
    Measure("speed", "curves", "Sampling speed", "tokens a second",
            "Sampled tokens of a step divided by the seconds of its rollout, waiting for the executor included.",
            ("tokens_per_second",)),
    Measure("seconds", "curves", "Time by phase", "seconds a step",
            "Wall-clock seconds: rollout (sampling and judging) and update.", ("seconds/*",)),
    Measure("answer_length", "findings", "Length of answers by task type", "tokens",
            "Mean tokens of the solver's responses. In the paper abduction's grow most, deduction's least.",
            ("length/solve/{type}",)),
    Measure("executed", "findings", "Executed lines of proposals", "lines",
            "Lines that a proposed program runs on its own input, calls and loops counted as often as they run.",
            ("executed/{type}",)),
    Measure("cyclomatic", "findings", "Cyclomatic complexity", "McCabe's number",
            "Independent paths through a proposed program, summed over its functions (radon).", ("cyclomatic/{type}",)),
    Measure("halstead", "findings", "Halstead volume", "bits",
            "Operators and operands times the bits that each takes (radon).", ("halstead/{type}",)),
    Measure("new_program", "findings", "New programs", "share of valid proposals",
            "Share of valid proposals whose program, up to names and layout, this run had not proposed before.",
            ("new_program/{type}",)),
    Measure("new_behaviour", "findings", "New behaviours", "share of valid proposals",
            "Share of valid proposals that do on eight fixed probe inputs what no earlier program did. New programs"
            " without new behaviour are the same task in other words.", ("new_behaviour/{type}",)),
    Measure("distance", "findings", "Distance to the nearest earlier program", "0: the same, 1: nothing shared",
            "1 minus the share of syntax-tree trigrams (names and constants abstracted) in common with the most similar"
            " earlier program.", ("distance/{type}",)),
    Measure("plans", "findings", "Plans as comments", "share of responses with code",
            "Share of the responses holding code that have at least two comment lines in it: the step-by-step plans of"
            " the paper's figure on code as reasoning.", ("plans/{role}/{type}",)),
]


# ----------------------------------------------------------------------------------------------------------------
# Series to panels

@dataclass
class Line:
    label: str
    look: tuple[str, str]
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None   # over seeds; of one run the interval of held-out accuracy
    high: np.ndarray | None = None


@dataclass
class Panel:
    title: str
    lines: list[Line] = field(default_factory=list)
    heat: np.ndarray | None = None  # rows: solved answers, columns: stretches of steps; shares, nan without tasks
    width: int = 1                  # steps of a stretch


def binned(steps, values, edges: np.ndarray) -> np.ndarray:
    """Mean of the values in each bin of steps; nan where there are none."""
    pairs = [(step, value) for step, value in zip(steps, values) if value is not None]
    if not pairs:
        return np.full(len(edges) - 1, np.nan)
    x, y = np.array(pairs, dtype=float).T
    bins = np.digitize(x, edges) - 1
    inside = (bins >= 0) & (bins < len(edges) - 1)
    count = np.bincount(bins[inside], minlength=len(edges) - 1)
    total = np.bincount(bins[inside], y[inside], minlength=len(edges) - 1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def edges_of(last: int) -> np.ndarray:
    width = max(1, -(-(last + 1) // BINS))
    return np.arange(0, last + 1 + width, width) - 0.5


def line_of(label: str, look: tuple, runs: list[History], key: str, edges: np.ndarray) -> Line | None:
    """The line of a key over a group of runs, or None where no run has it."""
    rows = [binned(*run.series[key], edges) for run in runs if key in run.series]
    rows = np.array([row for row in rows if np.isfinite(row).any()])
    if not len(rows):
        return None
    keep = np.isfinite(rows).any(0)
    rows, x = rows[:, keep], ((edges[1:] + edges[:-1]) / 2)[keep]
    y = np.nanmean(rows, 0)
    if len(rows) > 1:
        return Line(label, look, x, y, np.nanmin(rows, 0), np.nanmax(rows, 0))
    ends = [binned(*run.series[end], edges)[keep] for run in runs for end in (f"low/{key}", f"high/{key}")
            if end in run.series]
    return Line(label, look, x, y, *ends)


def star_keys(runs: list[History], pattern: str) -> list[tuple[str, str]]:
    """(what the star stands for, key), the largest first, of a pattern like gate/deduction/*; valid is no failure."""
    start = pattern[:-1]
    size = {key: sum(v or 0 for run in runs if key in run.series for v in run.series[key][1])
            for run in runs for key in run.series if key.startswith(start)}
    return [(key[len(start):], key) for key in sorted(size, key=size.get, reverse=True)
            if key[len(start):] not in ("valid", "given")][:6]


def panels_of(measure: Measure, groups: dict[str, list[History]], last: int) -> list[Panel]:
    """The panels in which anything is drawn: a task type that no run has makes none. One group: a panel a role with a
    line a type. Several: a panel a role and type with a line a group."""
    edges, panels = edges_of(last), []
    roles = ROLES if "{role}" in measure.keys[0] else ("",)
    types = tuple(tasks.TYPES) if "{type}" in measure.keys[0] else ("",)
    if measure.kind == "heat":
        return [panel for label, runs in groups.items() for type in types
                if (panel := heat_of(label if len(groups) > 1 else "", runs, type, last))]
    if measure.keys[0].endswith("*"):
        return star_panels(measure.keys[0], groups, types, edges)
    for pattern, part, role in ((*key, role) for key in zip(measure.keys, measure.parts) for role in roles):
        if len(groups) == 1:
            (runs,) = groups.values()
            lines = [line_of(type or measure.title.lower(), look, runs, pattern.format(role=role, type=type), edges)
                     for type, look in zip(types, LOOKS)]
            panels.append(Panel(part or role, [line for line in lines if line]))
        else:
            for type in types:
                lines = [line_of(label, LOOKS[i % len(LOOKS)], runs, pattern.format(role=role, type=type), edges)
                         for i, (label, runs) in enumerate(groups.items())]
                panels.append(Panel(" ".join(filter(None, (role, type, part))), [line for line in lines if line]))
    return [panel for panel in panels if panel.lines]


def star_panels(pattern: str, groups: dict[str, list[History]], types: tuple, edges: np.ndarray) -> list[Panel]:
    """A panel a group and type, with a line for everything that the star stands for; one look each on all panels."""
    everyone, panels = [run for runs in groups.values() for run in runs], []
    keys = {type: star_keys(everyone, pattern.format(type=type)) for type in types}
    names = dict.fromkeys(name for pairs in keys.values() for name, _ in pairs)
    looks = {name: LOOKS[i % len(LOOKS)] for i, name in enumerate(names)}
    for label, runs in groups.items():
        for type in types:
            lines = [line_of(name, looks[name], runs, key, edges) for name, key in keys[type]]
            panels.append(Panel(" ".join(filter(None, (label if len(groups) > 1 else "", type))),
                                [line for line in lines if line]))
    return [panel for panel in panels if panel.lines]


def heat_of(label: str, runs: list[History], type: str, last: int) -> Panel | None:
    width = max(1, -(-(last + 1) // 40))
    keys = {key for run in runs for key in run.lists if re.fullmatch(rf"solved_of_\d+/{type}", key)}
    if not keys:
        return None
    key = min(keys)
    counts = np.zeros((int(key.split("/")[0].rsplit("_", 1)[1]) + 1, -(-(last + 1) // width)))
    for run in runs:
        for step, of_step in zip(*run.lists.get(key, ([], []))):
            if len(of_step) == len(counts):  # a line may be damaged
                counts[:, min(step // width, counts.shape[1] - 1)] += of_step
    total = counts.sum(0)
    shares = np.where(total > 0, counts / np.maximum(total, 1), np.nan)
    return Panel(f"{label} {type}".strip(), heat=shares, width=width) if total.any() else None


# ----------------------------------------------------------------------------------------------------------------
# Drawing

def draw_panel(axes, measure: Measure, panel: Panel, ink: str) -> None:
    if panel.heat is not None:
        shades = ListedColormap([(0.18, 0.48, 0.88, a) for a in np.linspace(0, 1, 64)])
        axes.imshow(panel.heat, aspect="auto", origin="lower", cmap=shades, vmin=0, interpolation="nearest",
                    extent=(-0.5, panel.heat.shape[1] * panel.width - 0.5, -0.5, len(panel.heat) - 0.5))
    for line in panel.lines:
        color, dash = line.look
        axes.plot(line.x, line.y, dash, color=color, lw=1.6, label=textwrap.shorten(line.label, 40, placeholder="..."),
                  marker="o" if len(line.x) < 10 else None, ms=3, clip_on=False)
        if line.low is not None:
            axes.fill_between(line.x, line.low, line.high, color=color, alpha=0.2, lw=0)
    if measure.y.startswith("share") and len({y for line in panel.lines for y in line.y}) == 1:
        axes.set_ylim(-0.02, 1.02)  # a constant would be drawn between -0.05 and 0.05 of itself
    axes.set_xlabel("step", color=ink)
    axes.set_ylabel(measure.y, color=ink)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axes.tick_params(colors=ink)
    for spine in axes.spines.values():
        spine.set_color(ink)
    if measure.y.startswith("share"):
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    elif measure.name == "kl":
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}" if value else "0")
    else:
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    if "accuracy/{type}" in measure.keys and panel.lines:
        axes.set_ylim(bottom=0)  # a small change is not to look like a large one
    if panel.lines:
        axes.legend(frameon=False, ncol=legend(panel)[0], loc="lower left", bbox_to_anchor=(-0.02, 0.99), fontsize=8,
                    labelcolor=ink, handlelength=2.2, columnspacing=1)
    axes.patch.set_alpha(0)


def legend(panel: Panel) -> tuple[int, int]:
    """Columns, so that it is no wider than the plot, and rows."""
    longest = max((len(line.label) for line in panel.lines), default=0)
    columns = 3 if longest < 10 else 2 if longest < 20 else 1
    return columns, -(-len(panel.lines) // columns)


def svg(measure: Measure, panel: Panel, id: str) -> str:
    """The panel as inline SVG, its text as text, ids prefixed so that many fit into one page."""
    height = 2.4 + 0.16 * legend(panel)[1]
    figure = Figure(figsize=(3.9, height))
    axes = figure.add_axes((0.175, 0.42 / height, 0.79, 1.8 / height))
    draw_panel(axes, measure, panel, INK)
    figure.patch.set_alpha(0)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg"):], flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{id}-", text)
    text = re.sub(r'font: ([\d.]+px) [^;"]*', r"font-size: \1", text).replace(INK, "currentColor")
    label = html.escape(f"{measure.title}{': ' if panel.title else ''}{panel.title}. {summary(panel)}", quote=True)
    head = f'role="img" aria-label="{label}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', lambda match: f"<svg {match[1]} {head}", text, count=1)


def png(measure: Measure, panels: list[Panel], path) -> None:
    wide = min(3, len(panels))
    down = -(-len(panels) // wide)
    figure = Figure(figsize=(4.4 * wide, 2.9 * down + 0.3), layout="constrained")
    for axes, panel in zip(figure.subplots(down, wide, squeeze=False).flat, panels):
        draw_panel(axes, measure, panel, "black")
        axes.set_title(f"{measure.title}{': ' if panel.title else ''}{panel.title}", fontsize=10,
                       pad=8 + 13 * legend(panel)[1])
    for axes in figure.axes[len(panels):]:
        axes.set_axis_off()
    figure.savefig(path, dpi=110)


def rounded(value: float) -> str:
    return "-" if not np.isfinite(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def summary(panel: Panel) -> str:
    if panel.heat is not None:
        return "The numbers are in the table below."
    return "; ".join(f"{line.label} from {rounded(line.y[0])} to {rounded(line.y[-1])}" for line in panel.lines) + "."


def numbers_table(measure: Measure, panels: list[Panel]) -> str:
    """The figure's numbers as an HTML table, means over stretches of steps where there are many."""
    columns: list[tuple[str, dict]] = []
    for panel in panels:
        if panel.heat is not None:
            middles = (np.arange(panel.heat.shape[1]) + 0.5) * panel.width - 0.5
            columns += [(f"{panel.title} {k} solved", dict(zip(middles, row))) for k, row in enumerate(panel.heat)]
        for line in panel.lines:
            columns.append((f"{panel.title} {line.label}".strip(), dict(zip(line.x, line.y))))
            if line.low is not None:
                columns.append((f"{panel.title} {line.label} lowest".strip(), dict(zip(line.x, line.low))))
                columns.append((f"{panel.title} {line.label} highest".strip(), dict(zip(line.x, line.high))))
    steps = sorted({x for _, values in columns for x in values})
    rows = []
    for stretch in np.array_split(np.array(steps), min(TABLE_ROWS, len(steps))):
        label = f"{stretch[0]:g}" if len(stretch) == 1 else f"{stretch[0]:g} to {stretch[-1]:g}"
        cells = [[values[x] for x in stretch if x in values and np.isfinite(values[x])] for _, values in columns]
        rows.append(f"<tr><th scope=row>{label}</th>" + "".join(
            f"<td>{rounded(float(np.mean(cell))) if cell else '-'}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th scope=col>{html.escape(name)}</th>" for name, _ in columns)
    return (f"<table><caption>{html.escape(measure.title)}, {html.escape(measure.y)}</caption><thead><tr><th scope=col>"
            f"step</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>")

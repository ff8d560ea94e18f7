"""
Numbers from verdicts: the table of one evaluation (summary.json, summary.md), and what changed between two.

Order of reading: `numbers` of one task, `summarise` and its table, `compare`.
"""
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from benchmarks import stats
from benchmarks.selfplay import Scores, accuracy_table
from benchmarks.stages import Work, read_object, whole_lines
from benchmarks.suite import GROUPS
from runfolder import write_file
from tasks import Task

CURVE = (1, 2, 4, 8, 16, 32, 64)  # k of pass@k


def by_problem(rows: list[dict], value: str = "ok") -> tuple[list[str], list[list[float]], list[str]]:
    """(ids, one list of 0 and 1 per problem, clusters); what has no such value, such as a response without a program,
    counts as 0."""
    grouped, clusters = defaultdict(list), {}
    for row in rows:
        grouped[row["id"]].append(float(row.get(value, False)))
        clusters[row["id"]] = row["cluster"]
    return list(grouped), list(grouped.values()), [clusters[id] for id in grouped]


def numbers(rows: list[dict], value: str = "ok") -> dict:
    """Of one task at one temperature. The score is the mean over problems of the share of their samples that are
    correct; beside it its interval and error, why the others are not, how long they were, and pass@k if every problem
    has several samples."""
    _, solved, clusters = by_problem(rows, value)
    means = [sum(samples) / len(samples) for samples in solved]
    low, high = stats.interval(means, clusters)
    least = min(map(len, solved))
    entry = {"score": sum(means) / len(means), "low": low, "high": high, "error": stats.standard_error(means, clusters),
             "problems": len(solved), "samples": len(rows), "reasons": stats.shares([row["reason"] for row in rows]),
             "truncated": [row["finish"] for row in rows].count("length") / len(rows),
             "tokens": sum(row["tokens"] for row in rows) / len(rows)}
    if least > 1:
        entry["pass_at_k"] = {str(k): sum(stats.pass_at_k(len(samples), int(sum(samples)), k) for samples in solved)
                              / len(solved) for k in CURVE if k <= least}
    return entry


# ---------------------------------------------------------------------------------------------------------------------
# One evaluation

def summarise(works: list[Work], rows: list[dict], settings: dict, out: Path) -> str:
    """Writes summary.json and summary.md; the latter's text."""
    entries, text = {}, ""
    for work in works:
        mine = [row for row in rows if row["task"] == work.name]
        entries[work.name] = {"title": work.title, **work.facts, "at": {}}
        for temperature in dict.fromkeys(row["temperature"] for row in mine):
            some = [row for row in mine if row["temperature"] == temperature]
            at = entries[work.name]["at"][str(temperature)] = numbers(some)
            if any("base" in row for row in some):
                base = numbers(some, "base")
                at["base"] = {name: base[name] for name in ("score", "low", "high", "error")}
        if isinstance(work.items[0].row.get("task"), Task):
            text += "\n" + selfplay_table(work, mine)
    summary = {"settings": settings, "tasks": entries, "averages": averages(entries)}
    write_file(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    text = markdown(summary) + text
    write_file(out / "summary.md", text)
    return text


def selfplay_table(work: Work, rows: list[dict]) -> str:
    """Accuracy by task type and depth, of the first answers."""
    firsts = {row["id"]: row["ok"] for row in rows if row["k"] == 0}
    judged = [item for item in work.items if item.id in firsts]
    title = "" if len(firsts) == len(rows) else f"The first answer to every task of {work.title}:\n\n"
    return title + accuracy_table(None, Scores([item.row["task"] for item in judged],
                                               [int(firsts[item.id]) for item in judged]))


def averages(entries: dict) -> dict:
    """The paper's means over code and over mathematics, from the tasks' first temperatures, with standard errors."""
    means = {}
    for group in ("code", "math", "reason"):
        ats = [next(iter(entries[name]["at"].values())) for name in GROUPS[group] if name in entries]
        if len(ats) > 1:
            means[group] = {"mean": sum(at["score"] for at in ats) / len(ats), "tasks": len(ats),
                            "error": stats.macro_error([at["error"] for at in ats])}
    return means


def at_most(curve: dict, n: float) -> str:
    """The caveat of pass@k where k is the number of samples."""
    top = max(map(int, curve))
    return f" Of k = {top} there is one draw per problem: no average, and so the noisiest." * (top == n)


def percent(entry: dict) -> str:
    return f"{100 * entry['score']:.1f} [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]"


def markdown(summary: dict) -> str:
    """The table: percent correct with 95% intervals over problems."""
    settings = summary["settings"]
    lines = [f"Model {settings.get('model') or 'not stated'}"
             + (f" with {settings['adapter']}" if settings.get("adapter") else "")
             + (f" at {settings['endpoint']}" if settings.get("endpoint") else "")
             + f", prompt {settings['prompt']}{' with a worked example' * bool(settings.get('example'))}, Python"
             + f" {settings['python']}.", "",
             "| task | T | problems x samples | score [95%] | wrong | error | timeout | no answer | cut off |",
             "|---" * 9 + "|"]
    notes = []
    for entry in summary["tasks"].values():
        for temperature, at in entry["at"].items():
            each = at["samples"] / at["problems"]
            reasons = [100 * at["reasons"].get(reason, 0) for reason in ("wrong", "error", "timeout")]
            missing = 100 * (at["reasons"].get("no_answer", 0) + at["reasons"].get("truncated", 0))
            shares = " | ".join(f"{value:.1f}" for value in (*reasons, missing, 100 * at["truncated"]))
            head = f"{temperature} | {at['problems']} x {each:g}"
            if "base" in at:
                lines.append(f"| {entry['title'].rstrip('+')}, base tests | {head} | {percent(at['base'])} | | | | | |")
            title = entry["title"] + (f" avg@{each:g}" if each > 1 else "")
            lines.append(f"| {title} | {head} | {percent(at)} | {shares} |")
            if at["problems"] < entry["count"]:
                notes += ["", f"Only {at['problems']} of the {entry['count']} problems of {entry['title']}, T ="
                          f" {temperature}, have verdicts."]
            if curve := at.get("pass_at_k"):
                notes += ["", f"{entry['title']}, T = {temperature}, pass@k: " + ", ".join(
                    f"{k}: {100 * value:.1f}" for k, value in curve.items()) + "." + at_most(curve, each)]
    for group, mean in summary["averages"].items():
        notes += ["", f"Mean of {mean['tasks']} {group} tasks: {100 * mean['mean']:.1f}, standard error"
                  f" {100 * mean['error']:.1f}."]
    return "\n".join(lines + notes) + "\n"


# ---------------------------------------------------------------------------------------------------------------------
# Two evaluations

def read_folder(folder: Path) -> tuple[dict, dict]:
    """(summary, (task, temperature) -> rows of verdicts) of an --out folder; ValueError."""
    summary, verdicts = folder / "summary.json", folder / "verdicts.jsonl"
    if not verdicts.is_file() or not summary.is_file():
        raise ValueError(f"{folder}: no verdicts.jsonl and summary.json; run eval.py --out {folder} first")
    data, grouped = read_object(summary.read_bytes(), str(summary)), defaultdict(list)
    for row in whole_lines(verdicts):
        if row.get("task") not in data.get("tasks", ()) or not {"temperature", "id", "ok", "cluster"} <= row.keys():
            raise ValueError(f"{folder}: verdicts.jsonl does not go with summary.json; run --stage score again")
        grouped[row["task"], row["temperature"]].append(row)
    return data, grouped


def compare(before: Path, after: Path) -> str:
    """Markdown: what changed on the same problems, paired. ValueError where the two cannot be compared."""
    (old, old_rows), (new, new_rows) = read_folder(before), read_folder(after)
    for name in ("prompt", "example", "stop_at_answer", "n", "temperature", "max_new_tokens", "top_p", "system",
                 "template_args", "bare", "lenient"):
        was, now = (each.get("settings", {}).get(name) or False for each in (old, new))
        if was != now:
            raise ValueError(f"{before} and {after} differ in {name} ({was}, {now}), so the change is not the model's")
    lines, ps, notes = [], [], []
    for key in dict.fromkeys([*old_rows, *new_rows]):
        name = f"{key[0]}, T = {key[1]}"
        if key not in old_rows or key not in new_rows:
            notes.append(f"{name} is in one of the two only.")
            continue
        was, now = ([file["sha256"] for file in each["tasks"][key[0]]["files"]] for each in (old, new))
        if was != now:
            raise ValueError(f"{key[0]}: {before} and {after} were made with different files")
        earlier, later = list(zip(*by_problem(old_rows[key]))), dict(zip(*by_problem(new_rows[key])[:2]))
        both = [((solved, later[id]), cluster) for id, solved, cluster in earlier if id in later]
        if len(both) < max(len(earlier), len(later)):
            notes.append(f"{name}: {len(both)} problems are in both, of {len(earlier)} and {len(later)}.")
        if both:
            line, p, more = compare_task(*zip(*both))
            lines.append(f"| {old['tasks'][key[0]]['title']} | {key[1]} | {line}")
            ps.append(p)
            notes += [f"{name}: {note}" for note in more]
    if not lines:
        raise ValueError(f"{before} and {after} have no task in common")
    text = ["| task | T | problems | before | after | change, 95% interval | lost b | gained c | exact p | Holm p |",
            "|---" * 10 + "|"]
    text += [f"{line} | {p:.3g} | {held:.3g} |" for line, p, held in zip(lines, ps, stats.holm(ps))]
    notes.append("One training run a side: the spread between seeds is not in these intervals.")
    return "\n".join(text + [""] + notes) + "\n"


def compare_task(problems: list[tuple[list, list]], clusters: list[str]) -> tuple[str, float, list[str]]:
    """(cells of the table, exact p, notes) from every problem's (samples before, samples after), 0 and 1."""
    def change(value: Callable[[list], float]) -> tuple[list, list[str]]:
        pairs = [(value(was), value(now)) for was, now in problems]
        was, now = (100 * sum(side) / len(pairs) for side in zip(*pairs))
        low, high = stats.change_interval(pairs, clusters)
        return pairs, [f"{was:.1f}", f"{now:.1f}", f"{now - was:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"]
    pairs, cells = change(lambda samples: sum(samples) / len(samples))
    # Where problems are not independent, the coin that McNemar's test throws falls once for all of a cluster.
    moved: dict[str, float] = defaultdict(float)
    for (was, now), cluster in zip(pairs, clusters):
        moved[cluster] += now - was
    p = stats.mcnemar(sum(by < -1e-9 for by in moved.values()), sum(by > 1e-9 for by in moved.values()))
    counts = [len(samples) for problem in problems for samples in problem]
    notes = []
    if max(counts) > 1:
        notes.append("b and c count problems whose share of correct samples fell and rose (a sign test).")
    if len(moved) < len(pairs):
        notes.append(f"p is of {len(moved)} groups of problems, since those of a group are not independent.")
    if min(counts) > 1:
        curve = {k: change(lambda samples: stats.pass_at_k(len(samples), int(sum(samples)), k))[1]
                 for k in CURVE if k <= min(counts)}
        notes.append("pass@k " + ", ".join(f"{k}: {was} to {now}, {by}" for k, (was, now, by) in curve.items()) + "."
                     + at_most(curve, min(counts)))
    lost, gained = sum(was > now for was, now in pairs), sum(now > was for was, now in pairs)
    return " | ".join([str(len(pairs)), *cells, str(lost), str(gained)]), p, notes

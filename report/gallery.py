"""
The report's gallery: every task with its answers. The page holds a small index of all entries, for filtering, and
their texts in chunks that it unpacks on demand.
"""
import base64
import gzip
import json

import tasks
from report.read import History, types_of

CHUNK = 60                 # entries that are unpacked at once
LONGEST = 20_000           # characters of a response, fewer where the page would be too large
SHORTEST = 120


def entries_of(histories: list[History]) -> list[dict]:
    """One entry a proposal, in order, with the answers to its task; and one a task that came from elsewhere (the
    identity, a task file, a step that samples.jsonl left out)."""
    entries, strangers = [], {}
    for number, history in enumerate(histories):
        newest: dict[str, int] = {}  # task id: its latest entry
        copies: dict[str, int] = {}  # in seeding a task becomes one of several types: samples.jsonl holds it once
        for s in history.samples:
            if s["kind"] == "propose":
                references = s.get("references", [])
                known = [index for ref in references if (index := newest.get(ref, copies.get(ref))) is not None]
                entries.append({"run": number, "sample": s, "refs": known, "answers": [],
                                "elsewhere": len(references) - len(known)})
                if "task" in s:
                    newest[tasks.task_id(s["task"])] = len(entries) - 1
                    if s["step"] == 0:
                        copies |= {tasks.task_id(s["task"] | {"type": name}): len(entries) - 1 for name in tasks.TYPES}
        for s in history.samples:
            if s["kind"] != "propose":
                index = newest.get(s.get("task_id"))
                if index is None:
                    key = number, s.get("task_id") or s.get("prompt")
                    index = strangers.get(key)
                if index is None:
                    index = strangers[key] = len(entries)
                    entries.append({"run": number, "sample": s, "refs": [], "answers": [], "stranger": True})
                entries[index]["answers"].append(s)
    return entries


def shorten(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[:most // 2]}\n[... {len(text) - most:,} characters left out ...]\n{text[-(most // 2):]}"


def compressed(data) -> str:
    return base64.b64encode(gzip.compress(json.dumps(data, separators=(",", ":")).encode(), 6, mtime=0)).decode()


def head_of(entry: dict) -> str:
    s = entry["sample"]
    text = s["task"]["program"] if "task" in s else s["prompt"] if entry.get("stranger") else \
        s["text"].partition("<answer>")[2] or s["text"]
    return "  ".join(" ".join(line.split()) for line in text[:500].splitlines() if not line.startswith("```"))[:90]


def entry_texts(entry: dict, most: int) -> dict:
    """The texts of an entry, for the page; answers of at most `most` characters, others of a few times as many."""
    s, data = entry["sample"], {}
    if entry.get("stranger"):
        data["prompt"] = shorten(s.get("prompt", ""), 4 * most)
    else:
        data |= {"text": shorten(s["text"], 2 * most), "line": s["line"], "elsewhere": entry["elsewhere"]}
        if "task" in s:
            data |= {key: s["task"][key] for key in ("program", "inputs", "outputs", "message")}
    data["answers"] = [[a["kind"], a["step"], a.get("verdict"), a.get("reward"), a.get("tokens"), a.get("finish"),
                        shorten(a["text"], most), a["line"]] for a in entry["answers"]]
    return data


def index_of(entries: list[dict], histories: list[History]) -> dict:
    """What the page filters by and lists: columns with one value an entry, and the words that they count in."""
    types = types_of(histories)
    reasons = list(dict.fromkeys(e["sample"].get("verdict") or "" for e in entries if not e.get("stranger")))
    reasons.append("task from elsewhere")
    index = {"types": types, "reasons": reasons, "runs": [history.name for history in histories], "chunk": CHUNK}
    columns = ("run", "step", "type", "reward", "rate", "reason", "heldout", "refs", "answers", "head")
    index |= {column: [] for column in columns}
    for e in entries:
        s, stranger = e["sample"], e.get("stranger")  # of a stranger only answers are known
        reward = None if stranger or s.get("reward") is None else round(s["reward"], 3)
        reason = len(reasons) - 1 if stranger else reasons.index(s.get("verdict") or "")
        values = (e["run"], s["step"], types.index(s["type"]), reward, None if stranger else s.get("solve_rate"),
                  reason, int(bool(s.get("heldout"))), e["refs"], len(e["answers"]), head_of(e))
        for column, value in zip(columns, values, strict=True):
            index[column].append(value)
    return index


def gallery(histories: list[History], room: int) -> tuple[str, str]:
    """(script elements with the data, in at most about `room` bytes, a sentence on what was left out)."""
    entries = entries_of(histories)
    index = compressed(index_of(entries, histories))
    most, chunks = LONGEST, list(tasks.chunks(entries, CHUNK))
    few = chunks[::len(chunks) // 16 + 1]  # tell what all would take

    def packed(some: list) -> list[str]:
        return [compressed([entry_texts(entry, most) for entry in chunk]) for chunk in some]
    while most > SHORTEST and sum(map(len, packed(few))) * len(chunks) > (room - len(index)) * len(few):
        most = most * 3 // 4
    out = [f'<script type="application/gzip" id="index">{index}</script>']
    out += [f'<script type="application/gzip" id="chunk{i}">{chunk}</script>' for i, chunk in enumerate(packed(chunks))]
    said = f"{len(entries):,} tasks with {sum(len(e['answers']) for e in entries):,} answers."
    if any(len(s["text"]) > most for history in histories for s in history.samples):
        said += f" Of texts above {most:,} characters the middle is left out; samples.jsonl has all of it."
    if every := [f"every {history.every}th step of {history.name}" for history in histories if history.every > 1]:
        said += f" To keep the page small it holds {', '.join(every)}."
    return "\n".join(out), said

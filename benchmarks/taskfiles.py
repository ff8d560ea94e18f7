"""
Held-out self-play tasks as a benchmark: files of tasks, what a run set aside, and the official seed files.
"""
import json
from pathlib import Path

import tasks
from benchmarks import judges
from benchmarks.items import Item, read_rows
from benchmarks.judges import Answers, Judgement
from benchmarks.prompts import Prompt, in_turns
from benchmarks.suite import Kind
from executor import Executor
from sandbox.values import show
from tasks import TYPES, Style, Task


def selfplay_items(path: Path, executor: Executor, limit: int | None = None) -> list[Item]:
    """The first tasks of a task file (as nano's), of a run's folder (what it set aside; train.py itself makes the tasks
    on held-out programs that a proposer must be given, and shows them in heldout.md) or of an official AZR seed file.
    ValueError, also for a task whose outputs are not what its program gives; OSError."""
    try:
        if path.is_dir():
            state = json.loads((path / "checkpoint" / "state.json").read_text())
            heldout = tasks.Buffers.from_json(state["buffers"]).heldout
            loaded = [task for name in TYPES for task in heldout[name]]
        elif "snippet" in first_row(path):
            loaded = official_tasks(path, executor)
        else:
            loaded = tasks.load_tasks(str(path), executor)[:limit]
            tasks.refuse_faults(str(path), loaded, executor)
    except (OSError, KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError,
            UnicodeDecodeError) as error:
        raise ValueError(f"{path}: neither a file of tasks nor a run's folder ({type(error).__name__}: {error})") \
            from error
    if not loaded:
        raise ValueError(f"{path}: no tasks")
    # By content, not by place: a run goes on, and responses to earlier tasks must not be judged as those to others.
    by_id = {f"{task.type}/{task.id}": task for task in loaded[:limit]}
    return [Item(id, {"task": task}, task.key) for id, task in by_id.items()]


def first_row(path: Path) -> dict:
    with open(path, encoding="utf-8") as lines:
        line = lines.readline()
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}  # load_tasks says what is wrong
    return row if isinstance(row, dict) else {}


def official_tasks(path: Path, executor: Executor) -> list[Task]:
    """Seed tasks in the official format, a row as one task of each of the paper's types that it can be. Values are
    recomputed here, and rows whose inputs are no literals or too few, or whose program does not pass the gate, are left
    out (about 2%). TypeError where a part is of another type."""
    proposals = []
    for row in read_rows(path):
        given_program = "inputs" in row  # to its proposer
        inputs = row["inputs"] if given_program else [row["input"]]
        if not all(isinstance(part, list) for part in (inputs, row["imports"])):
            raise TypeError("imports and inputs are lists")
        program = "\n".join([*row["imports"], row["snippet"]])
        blocks, reference = [tasks.fence("input", text) for text in inputs], None
        if given_program:
            blocks, reference = [*blocks, tasks.fence("message", row["message"])], Task("", program, (), ())
        else:
            blocks = [tasks.fence("python", program), *blocks]
        if not given_program or len(inputs) > 1:  # else none would be hidden
            proposals += [(len(inputs), (type, "\n".join(blocks), reference)) for type in TYPES.values()
                          if type.paper and type.given_program == given_program]
    distinct: dict[tuple, Task] = {}
    for count in sorted({count for count, _ in proposals}):
        group = [proposal for n, proposal in proposals if n == count]
        for gated in tasks.gate(group, executor, n_inputs=count, strict_format=False):
            if gated.task:
                distinct.setdefault((gated.task.type, gated.task.key, show(gated.task.inputs)), gated.task)
    return list(distinct.values())


REASON_OF = {"correct": "pass", "wrong": "wrong", "no answer": "no_answer", "timeout": "timeout"}  # others: "error"


def judge_selfplay(answers: Answers, executor: Executor, lenient: bool) -> list[Judgement]:
    """As in training: an answer counts if it is correct and in the form that was asked for."""
    pairs, judgements = [(item.row["task"], text) for item, text in answers], []
    verdicts = tasks.verify(pairs, executor)
    tried = [index for index, verdict in enumerate(verdicts) if verdict.reason in ("timeout", "infra")]
    limits = judges.LAST[0], judges.ALL_TESTS * judges.LAST[0]  # with the executor to themselves, see `judges.again`
    for index, verdict in zip(tried, tasks.verify([pairs[i] for i in tried], executor, limits)):
        verdicts[index] = verdict
    for verdict in verdicts:
        reason = REASON_OF.get(verdict.reason, "error")
        if reason == "pass" and not verdict.well_formed:
            reason = "no_answer"
        judgements.append(Judgement(reason == "pass", reason, verdict.reason, infra=verdict.reason == "infra"))
    return judgements


def selfplay_kind(style: Style) -> Kind:
    """Of tasks that are asked in this style, or in the chat template; the response itself is what is judged."""
    def plain_prompt(item: Item) -> Prompt:
        return Prompt(text=tasks.solve_prompt(style, item.row["task"]))

    def chat_prompt(item: Item) -> Prompt:
        return in_turns(lambda chat: tasks.solve_prompt(chat, item.row["task"]), style)
    return Kind({"azr": plain_prompt, "compact": plain_prompt, "chat": chat_prompt},
                lambda item, prompt, response: response, judge_selfplay)

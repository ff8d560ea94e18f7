"""
A fuzzer that stays: draws what a model, a program, a file or a user can come with (fuzz_draws.py), and looks for what
should never happen. A short part of it runs with the tests (test_fuzz.py), a long one by hand:

    python -m tests.fuzz --minutes 30 [--only texts programs] [--seed 7] [--workers 2] [--out fuzz-findings]
    python -m tests.fuzz --again texts 7 1234        # one case, by the kind, seed and number that a finding tells

    texts     responses of proposers and solvers: through the gate, the judges and all that reads responses
    programs  proposals with drawn programs, valid ones and not, through the gate
    values    nested 1 to 1,000 deep, up to 10^5 wide: shown, sent, read back and compared
    files     task files and official seed files, damaged in bytes, lines, fields and types
    folders   run folders, damaged so, through the report and all else that reads them
    settings  command lines, and the config.json of a resumed run

Properties: no exception but the documented ones; the trainer's work is in proportion to the size (calls counted;
seconds only here, not in the tests); two judgements of one thing are equal; what is shown reads back; the truth of a
valid task is judged right; rewards stay in their ranges; damaged files give one line or a page.

Cases are drawn from (seed, kind, number) alone. Findings are told apart by what is wrong, not by the case; the first of
each is shrunk and written down. Exit status 1 if there is one.
"""
import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import queue
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import fuzz_draws as draws  # noqa: E402
import rewards  # noqa: E402
import runfolder  # noqa: E402
import tasks  # noqa: E402
from benchmarks import judges, lenient, prompts, taskfiles  # noqa: E402
from benchmarks.items import Item, boxed  # noqa: E402
from config import PRESETS, Config, UserError, is_of, parse  # noqa: E402
from executor import Executor  # noqa: E402
from report import page  # noqa: E402
from sandbox import parsing, values  # noqa: E402
from sandbox.values import same_value, show  # noqa: E402
from tasks import TYPES, Style, Task  # noqa: E402
from tools.show import load_any, printable, task_text  # noqa: E402

CPU_SECONDS, WALL_SECONDS = 0.05, 5.0  # of a response, the trainer's own and until it is judged with nano's limits
NEVER = 20                             # CPU seconds after which a check is taken to have no end
SHRINK_SECONDS = 20


class Fixed(str):
    """A part of a case that is not shrunk."""


class TooSlow(BaseException):
    """More time or calls than allowed; no `except Exception` on the way may take it."""


@dataclass
class World:
    """What the checks of one process share."""
    executor: Executor
    other: Executor        # with other hash seeds, and a cache of its own: what it says is a second judgement
    folder: Path
    bounded: bool = False  # whether seconds count
    asked: dict[str, Task] = field(default_factory=dict)
    specials: set[int] = field(default_factory=set)
    encode: Callable = None
    markers: tuple[str, ...] = ()

    def timed(self, function: Callable, *args):
        """function(*args); TooSlow beyond the bounds, where seconds count."""
        cpu, wall = time.thread_time(), time.monotonic()
        crowd = max(1, os.getloadavg()[0] / os.cpu_count())  # processes that share a core
        result = function(*args)
        if self.bounded and time.thread_time() - cpu > CPU_SECONDS:
            raise TooSlow(f"over {1000 * CPU_SECONDS:g} ms of the trainer's CPU time in {function.__name__}")
        if self.bounded and time.monotonic() - wall > WALL_SECONDS * crowd:
            raise TooSlow(f"over {WALL_SECONDS:g} s until judged in {function.__name__}")
        return result

    def gate(self, proposals: list, executor: Executor) -> list[tasks.Gated]:
        return self.timed(tasks.gate, proposals, executor, 1, 4, True, self.markers) if proposals else []

    def verify(self, answers: list, executor: Executor) -> list[tasks.Verdict]:
        return self.timed(tasks.verify, answers, executor) if answers else []


@contextlib.contextmanager
def make_world(bounded: bool = False) -> Iterator[World]:
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(ROOT / "nano" / "tokenizer.json"))
    specials = {id: token.content for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        one, other = (stack.enter_context(Executor(1, cpu_seconds=0.5, memory_mb=256, require="weak", seed=seed,
                                                   preload=("report.measure",))) for seed in range(2))
        yield World(one, other, Path(folder), bounded, example_tasks(), set(specials),
                    lambda text: tokenizer.encode(text).ids, tuple(specials.values()))


def example_tasks() -> dict[str, Task]:
    """One of each type, of a program that answers of many shapes satisfy."""
    program, inputs = "def f(x):\n    return [x, x]", (((1,), ("a",), ([2],), (1.5,)))
    made = {}
    for name, type in TYPES.items():
        given = inputs if type.given_program else inputs[:1]
        outputs = tuple("NoError" if name == "error" else [x, x] for x, in given)
        made[name] = Task(name, program, given, outputs, "twice", 0, parsing.program_key(program), 0)
    return made


def calls(function: Callable, *args, most: float):
    """function(*args), with at most so many calls of functions inside it, Python's and C's; TooSlow."""
    count = 0

    def note(frame, event, arg):
        nonlocal count
        count += event in ("call", "c_call")
        if count > most:
            sys.setprofile(None)
            raise TooSlow(f"more calls than the size allows in {function.__name__}")
    sys.setprofile(note)
    try:
        return function(*args)
    finally:
        sys.setprofile(None)


# ----------------------------------------------------------------------------------------------------------------
# Texts and programs

def draw_text(rng: random.Random) -> tuple:
    type, role = rng.choice(list(TYPES)), rng.choice(("propose", "solve", "solve", "solve"))
    right = {"deduction": "[1, 1]", "abduction": "1", "induction": "def f(y):\n    return [y] * 2", "error": "NoError"}
    text = draws.response(rng, type, role, right[type])
    return Fixed(type), Fixed(role), without_surrogates(text) if role == "propose" else text


def draw_program(rng: random.Random) -> tuple:
    type = rng.choice(list(TYPES))
    inputs = [draws.input_text(rng) for _ in range(4 if type == "induction" else 1)]
    return Fixed(type), *map(without_surrogates, (draws.program(rng), *inputs))


def without_surrogates(text: str) -> str:
    """What a model writes has none, and no tokenizer takes them."""
    return text.encode("utf-8", "replace").decode()


def check_texts(world: World, cases: list[tuple]) -> list[str]:
    said = [parts_fault(text) for _, _, text in cases]
    for type, _, text in cases:
        read_everywhere(world, TYPES[type], text)
    proposals = [(TYPES[type], text, world.asked["deduction"]) for type, role, text in cases if role == "propose"]
    answers = [(world.asked[type], text) for type, role, text in cases if role == "solve"]
    twice = one_in(8, cases)
    gate_said, rows = check_gate(world, proposals, twice), []
    verdicts = world.verify(answers, world.executor)
    again = world.verify(answers, world.other) if twice else verdicts
    verify_said = ["two judgements differ" if one != other else verdict_fault(one) for one, other in
                   zip(verdicts, again)]
    for verdict, (task, _) in zip(verdicts, answers):
        rows.append((task.type, rewards.solve_reward(verdict.well_formed, verdict.correct)))
    check_rewards(rows)
    judged = {"propose": iter(gate_said), "solve": iter(verify_said)}
    return [next(judged[role]) or wrong for wrong, (_, role, _) in zip(said, cases)]


def check_programs(world: World, cases: list[tuple]) -> list[str]:
    proposals = []
    for type, program, *inputs in cases:
        blocks = [draws.fenced("input", text) for text in inputs]
        given = TYPES[type].given_program
        blocks.append(draws.fenced("message", "m") if given else draws.fenced("python", program))
        proposals.append((TYPES[type], "</think><answer>" + "\n".join(blocks) + "</answer>",
                          Task("deduction", program, (), ()) if given else None))
    said = check_gate(world, proposals, one_in(6, cases))
    if not one_in(4, cases):
        return said
    return [wrong or key for wrong, key in zip(said, key_faults(world, [program for _, program, *_ in cases]))]


def one_in(count: int, cases: list[tuple]) -> bool:
    """Of so many batches one, and whatever is looked at alone: for checks that would take most of the time."""
    return len(cases) == 1 or sum(map(len, cases[0])) % count == 0


def parts_fault(text: str) -> str:
    """What is wrong with how a response is taken apart."""
    part, blocks = tasks.answer_part(text), tasks.answer_blocks(text)
    if tasks.well_formed(text) != (part is not None):
        return "well_formed and answer_part disagree"
    if part is not None and ("</answer>" in part or part not in text):
        return "the answer part is not one"
    if any(block not in text for _, block in blocks):
        return "a block that the response does not hold"
    if part is not None:
        for other in ("thought " + text, text + "\nUser: </think><answer>```output\n7\n```</answer>"):
            if tasks.answer_blocks(other) != blocks:
                return "what stands before or behind the answer part counts"
    return ""


def read_everywhere(world: World, type: tasks.TaskType, text: str) -> None:
    """All else that reads responses in the trainer's process or eval.py's."""
    item, plain = Item("x", {"entry_point": "f"}), prompts.Prompt()
    filled, tagged = prompts.Prompt(prefill="```python\n"), prompts.Prompt(stops=("[/ANSWER]",))
    for prompt, finds in ((plain, (prompts.find_program, prompts.find_output, prompts.find_math)),
                          (filled, [prompts.find_program]), (tagged, [prompts.find_input])):
        for find in finds:
            world.timed(find, item, prompt, text)
    world.timed(lenient.candidates, type, text)
    world.timed(judges.integer, world.timed(boxed, text) or text)
    world.timed(printable, text)


def check_gate(world: World, proposals: list, twice: bool = True) -> list[str]:
    gated = world.gate(proposals, world.executor)
    again = world.gate(proposals, world.other) if twice else gated
    said = [gate_fault(world, one, other) for one, other in zip(gated, again)]
    valid = [i for i, one in enumerate(gated) if one.task]
    truths = [(gated[i].task, truth(gated[i].task)) for i in valid]
    for i, verdict in zip(valid, world.verify(truths, world.other)):
        if not (verdict.correct and verdict.well_formed):
            said[i] = said[i] or f"the truth of a valid {gated[i].task.type} task is judged {verdict.reason}"
    shares = [(proposal[0].name, rewards.propose_reward(tasks.well_formed(proposal[1]),
                                                        rewards.learnability(i % 9, 8) if one.task else None))
              for i, (proposal, one) in enumerate(zip(proposals, gated))]
    check_rewards(shares)
    return said


def truth(task: Task) -> str:
    type = TYPES[task.type]
    return f"</think><answer>{tasks.fence(type.answer[0], type.hidden(task))}</answer>"


def gate_fault(world: World, one: tasks.Gated, other: tasks.Gated) -> str:
    if one.reason != other.reason:
        return f"two judgements differ: {' and '.join(sorted((one.reason, other.reason)))}"
    if one.reason == "infra" or not one.reason.isprintable() or len(one.reason) > 40:
        return "infra" if one.reason == "infra" else "a gate reason that is none"
    if one.task is None:
        return ""
    if not same_value(one.task.outputs, other.task.outputs):
        return "two judgements differ: outputs"
    return task_fault(world, one.task)


def verdict_fault(verdict: tasks.Verdict) -> str:
    if verdict.correct != (verdict.reason == "correct"):
        return "a verdict and its reason disagree"
    return "infra" if verdict.reason == "infra" else "" if verdict.reason.isprintable() else "a reason that is none"


def task_fault(world: World, task: Task) -> str:
    """What is wrong with a task that may be shown to a model, logged and kept."""
    again = tasks.task_from_state(json.loads(json.dumps(tasks.task_to_state(task))))
    if exact([again.inputs, again.outputs]) != exact([task.inputs, task.outputs]) or again.id != task.id:
        return "a task does not survive its checkpoint"
    texts = [*map(tasks.arguments, task.inputs), *map(show, task.outputs)]
    if any(len(text) > tasks.MAX_VALUE_CHARS for text in texts):
        return "a value too long for a task"
    shown = len(task.inputs) // 2
    if TYPES[task.type].given_program and any(same_value(a, b) for a in task.inputs[shown:]
                                              for b in task.inputs[:shown]):
        return "a hidden input was shown"
    for style in (Style("compact", 4), Style("r1", 4, example=True)):
        try:
            ids = world.encode(tasks.solve_prompt(style, task)) + world.encode(
                tasks.propose_prompt(style, TYPES[task.type], [task]))
        except TypeError:
            return "a prompt that no tokenizer takes"
        if world.specials & set(ids):
            return "a special token in a prompt"
    if any(not character.isprintable() and character not in "\n\t" for character in printable(task_text(task))):
        return "a control character on the terminal"
    return ""


def key_faults(world: World, programs: list[str]) -> list[str]:
    """A comment behind a program changes nothing that is known of it."""
    texts = [("inspect_program", text) for program in programs for text in (program, program + "\n# end")]
    facts = world.timed(tasks.read, texts, world.executor)
    changed = (one.kind == other.kind == "ok" and one.value != other.value and one.value["key"] and other.value["key"]
               for one, other in zip(facts[::2], facts[1::2]))
    return ["a comment changes what is known of a program" if wrong else "" for wrong in changed]


def check_rewards(rows: list[tuple[str, float]]) -> None:
    """Ranges, and advantages that are finite and sum to nothing within their group."""
    groups, given = [(type, "solve") for type, _ in rows], [reward for _, reward in rows]
    if not all(-1 <= reward <= 1 for reward in given):
        raise AssertionError("a reward out of its range")
    for kind in ("trr++", "reinforce++", "grpo") if rows else ():
        adv_R = rewards.advantages(kind, given, groups, [i % 3 for i in range(len(rows))], [5] * len(rows))
        if not adv_R.isfinite().all() or abs(float(adv_R.sum())) > 1e-6 * len(rows):
            raise AssertionError("advantages that are not finite or do not sum to zero")


# ----------------------------------------------------------------------------------------------------------------
# Values

def draw_value(rng: random.Random) -> tuple:
    return draws.any_value(rng), rng.getrandbits(32)


def exact(value) -> tuple:
    """Hashable, and equal for values that are the same to the last type and sign of zero; sets in any order, dicts in
    theirs."""
    kind = type(value)
    if kind in (set, frozenset):
        return kind, frozenset(Counter(map(exact, value)).items())
    if kind is dict:
        return kind, tuple((exact(k), exact(v)) for k, v in value.items())
    if kind in (list, tuple):
        return kind, tuple(map(exact, value))
    if kind is complex:
        return kind, repr(value.real), repr(value.imag)
    return kind, repr(value) if kind is float else value


def check_values(world: World, cases: list[tuple]) -> list[str]:
    return [value_fault(world, value, random.Random(number)) for value, number in cases]


def value_fault(world: World, value, rng: random.Random) -> str:
    try:
        wire = calls(values.to_wire, value, most=20 * values.MAX_VALUE)
    except (TypeError, ValueError):
        return ""  # no task, no answer and no result can hold it
    most, tree = 1000 + 20 * len(wire), json.loads(wire)
    if len(wire) > values.MAX_VALUE:
        return "an encoded value that is too big"
    back = calls(values.from_wire, tree, most=most)
    text = calls(show, back, most=most)
    if exact(back) != exact(value) or show(value) != text:
        return "a value does not survive the wire"
    if not text.isprintable():
        return "a value is shown with what cannot be printed"
    for read, read_text in ((parsing.parse_literal, text), (parsing.parse_arguments, f"{text}, {text}")):
        if len(read_text) <= parsing.MAX_TEXT:
            again = calls(read, read_text, most=100 * most)
            if exact(again) != exact(value if read is parsing.parse_literal else (value, value)):
                return "what is shown does not read back"
    same, other = draws.variant(value, rng, True), draws.variant(value, rng, False)
    further = draws.variant(same, rng, True)
    if not all(calls(same_value, a, b, most=2 * most) for a, b in
               ((value, back), (value, same), (same, value), (same, further), (value, further))):
        return "same_value: equal values differ"
    if any(same_value(a, b) for a, b in ((value, other), (other, value), (same, other), (other, further))):
        return "same_value: different values are equal"
    return ""


# ----------------------------------------------------------------------------------------------------------------
# Task files

def draw_file(rng: random.Random) -> tuple:
    made = list(example_tasks().values())
    rows = [tasks.task_to_json(task) for task in made + made]
    if rng.random() < 0.3:  # the official format
        rows = [{"snippet": task.program, "imports": ["import math"], "input": "1",
                 "output": "[1, 1]"} for task in made]
        rows.append({"snippet": made[0].program, "imports": [], "inputs": ["1", "2", "3", "4"], "message": "m"})
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = draws.damaged(data, rng)
    return (data,)


def check_files(world: World, cases: list[tuple]) -> list[str]:
    path, said = world.folder / "tasks.jsonl", []
    for data, in cases:
        path.write_bytes(data)
        said.append(next(filter(None, (read_fault(world, read, path) for read in (load_any, selfplay_tasks))), ""))
    return said


def selfplay_tasks(path: Path, executor: Executor) -> list[Task]:
    try:
        return [item.row["task"] for item in taskfiles.selfplay_items(path, executor)]
    except ValueError as error:
        raise UserError(str(error)) from error


def read_fault(world: World, read: Callable, path: Path) -> str:
    """What is wrong with the tasks or the line that reading a file gives."""
    try:
        loaded = read(path, world.executor)
    except UserError as error:
        return line_fault(str(error)) or ("" if str(path) in str(error) else "a line without its file")
    for task in loaded:
        if not task_sound(task):
            return "a task whose parts are of other types"
        if (wrong := task_fault(world, task)) and wrong not in FILES_OWN:
            return wrong
    tasks.verify([(task, truth(task)) for task in loaded], world.executor)
    return ""


# Of a file a user wrote, these are not faults: `tasks.fits` and the gate's limits are about what models write.
FILES_OWN = ("a value too long for a task", "a hidden input was shown")


def task_sound(task: Task) -> bool:
    return (task.type in TYPES and all(isinstance(text, str) for text in (task.program, task.message, task.key))
            and type(task.step) is int and bool(task.inputs) and len(task.inputs) == len(task.outputs)
            and all(type(args) is tuple for args in task.inputs))


def line_fault(text: str) -> str:
    """What is wrong with what is said to a user: it is one line, of this length, and moves no cursor."""
    if any(unicodedata.category(character) == "Cc" for character in text):
        return "not one printable line for the user"
    return "an endless line for the user" if len(text) > 1000 else ""


# ----------------------------------------------------------------------------------------------------------------
# Run folders and settings

def run_files() -> dict[str, bytes]:
    """A small run folder as train.py would write it."""
    preset = asdict(Config(**PRESETS["nano"]))
    config = preset | {"preset": "nano", "name": "made", "steps": 3, "device": "cpu", "model": str(ROOT / "nano")}
    metrics, samples = [], []
    buffers = tasks.Buffers(10)
    for step, (name, task) in enumerate(example_tasks().items(), 1):
        buffers.add(task)
        line = {"step": step, "tokens_generated": 100, "seconds/rollout": 2.0, f"valid/{name}": 0.5,
                f"gate/{name}/valid": 1, f"gate/{name}/no f": 1, f"learnability/{name}": 0.4, "grad_norm": 1.5,
                f"solve_rate/{name}": 0.5, f"solved_of_2/{name}": [1, 0, 1], f"length/solve/{name}": 9.5,
                f"bad_format/solve/{name}": 0.1, f"cut_off/solve/{name}": 0.0, f"mixed/{name}": None}
        metrics.append(line | ({"heldout": {f"{name}/1": 0.5}} if step == 2 else {}))
        row = {"step": step, "role": "propose", "kind": "propose", "type": name, "reward": 0.5, "heldout": False,
               "well_formed": True, "verdict": "valid", "solve_rate": 0.5, "advantage": 0.0, "finish": "stop",
               "tokens": 5, "prompt": "p", "text": f"t</think><answer>{draws.fenced('python', task.program)}</answer>",
               "references": [task.id], "task": tasks.task_to_json(task)}
        samples += [row, row | {"verdict": "no f", "task": None} | {"reward": -1.0}]
        del samples[-1]["task"]
        samples.append({key: row[key] for key in row if key not in ("task", "references")} | {
            "role": "solve", "kind": "probe", "solve_rate": None, "verdict": "correct", "task_id": task.id})
    lines = {"metrics.jsonl": metrics, "samples.jsonl": samples, "evaluations.jsonl": [{"step": 1, "n": 1}]}
    notes = {"config.json": config | {"resume": None}, "preset.json": preset, "machine.json": {"cpu": "c", "cores": 2},
             "checkpoint/state.json": {"step": 3, "sizes": [0, 0], "buffers": buffers.to_json()},
             "checkpoint/checksums.json": {}}
    files = {name: "".join(json.dumps(line) + "\n" for line in rows).encode() for name, rows in lines.items()}
    files |= {name: (json.dumps(note, indent=2) + "\n").encode() for name, note in notes.items()}
    files |= {"heldout.md": b"Tasks of made:\n\n| type | depth | before | after |\n|---|---|---|---|\n"
              b"| deduction | all | 50.0 [40, 60] | 70.0 [60, 79] |\n", "checkpoint/optimizer.pt": b"weights" * 9}
    sums = {name.removeprefix("checkpoint/"): hashlib.sha256(data).hexdigest() for name, data in files.items()
            if name.startswith("checkpoint/") and "sums" not in name}
    return files | {"checkpoint/checksums.json": json.dumps(sums).encode()}


FILES = run_files()
WEIGHTS = {"config.json": 4, "metrics.jsonl": 5, "samples.jsonl": 6, "checkpoint/checksums.json": 2}


def draw_folder(rng: random.Random) -> tuple:
    """(name, data) of the files that differ from FILES; data None is a file that is missing, True a folder."""
    names, changed = list(FILES), {}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        (name,) = rng.choices(names, [WEIGHTS.get(name, 1) for name in names])
        which, data = rng.random(), changed.get(name)
        changed[Fixed(name)] = None if which < 0.05 else True if which < 0.07 else draws.damaged(
            data if isinstance(data, bytes) else FILES[name], rng)
    return (tuple(changed.items()),)


def check_folders(world: World, cases: list[tuple]) -> list[str]:
    return [folder_fault(world, dict(changed)) for changed, in cases]


def folder_fault(world: World, changed: dict) -> str:
    folder = world.folder / "run"
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in (FILES | changed).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is True:
            path.mkdir()
        elif data is not None:
            path.write_bytes(data)
    said = [one_line(use, world, folder) for use in (resume, write_report, show_tasks, take_heldout)]
    return next(filter(None, said), "")


def one_line(use: Callable, world: World, folder: Path) -> str:
    """What is wrong with how this use of a folder ends: in peace, or with one line for the user."""
    try:
        return use(world, folder) or ""
    except (UserError, OSError) as error:  # all commands have a line for both
        return line_fault(str(error))


def resume(world: World, folder: Path) -> str:
    """All that is read when a run goes on, but for the weights."""
    try:
        cfg, _ = parse(["--resume", str(folder)])
    except UserError:
        return ""  # it may repeat the user's own words, whatever they hold
    if wrong := config_fault(cfg):
        return wrong
    if checkpoint := runfolder.find_checkpoint(folder):
        state = json.loads((checkpoint / "state.json").read_text())
        tasks.Buffers.from_json(state["buffers"])
        if (checkpoint / "optimizer.pt").read_bytes() != FILES["checkpoint/optimizer.pt"]:
            return "a damaged checkpoint is taken for a whole one"
    runfolder.finished(cfg, folder)
    runfolder.tokens_made(folder)
    runfolder.step_warnings({"step": 9, "length/solve/deduction": 1.0}, cfg, runfolder.first_lengths(folder))
    return ""


def write_report(world: World, folder: Path) -> str:
    out = folder / "report.html"
    with mock.patch.object(page, "Executor", lambda *_, **__: contextlib.nullcontext(world.executor)):
        page.write_page([folder], out)
    text = out.read_text(encoding="utf-8")
    odd = [c for c in text if not c.isprintable() and c not in "\n\t" and ord(c) < 0xa0]
    return "a control character in the report" if odd else ""


def show_tasks(world: World, folder: Path) -> str:
    return next(filter(None, (task_fault(world, task) for task in load_any(folder, world.executor)
                              if not task_fault(world, task) in FILES_OWN)), "")


def take_heldout(world: World, folder: Path) -> str:
    selfplay_tasks(folder, world.executor)
    return ""


def config_fault(cfg: Config) -> str:
    return "" if all(is_of(getattr(cfg, f.name), f.type) for f in fields(Config)) else "an option of another type"


def draw_settings(rng: random.Random) -> tuple:
    words = []
    for _ in range(rng.randint(1, 4)):
        f = rng.choice(fields(Config))
        words.append(rng.choice(("--", "--", "--", "--", "--no_", "-", "")) + f.name.replace("_", rng.choice("_-")))
        if rng.random() < 0.9:
            words += rng.choices(("0", "1", "-1", "2", "10", "1e9", "1e999", "nan", "inf", "-inf", "1e-9", "", "a",
                                  "yes", "no", "nano", "3b", "cpu", "cuda", "deduction", "induction", "abduction",
                                  "error", "grpo", "probes", "mixed", "this", "chat", "..", "/", "a/b", "~", "é",
                                  "\udcff", "9" * 30, "0x10", "1_000", "٣", "--", "=", "/dev/null", "x" * 300,
                                  *rng.choices(list(PRESETS), k=2)), k=rng.choice((1, 1, 1, 2)))
    return tuple(words)


def check_settings(world: World, cases: list[tuple]) -> list[str]:
    return [one_line(lambda *_: config_fault(parse(list(words))[0]), world, world.folder) for words in cases]


# ----------------------------------------------------------------------------------------------------------------
# Looking for findings, and making them small

@dataclass(frozen=True)
class Kind:
    draw: Callable[[random.Random], tuple]
    check: Callable[[World, list[tuple]], list[str]]  # what is wrong with each case, or ""; or raises
    batch: int
    share: float  # of the time


KINDS = {
    "texts": Kind(draw_text, check_texts, 256, 0.55),
    "programs": Kind(draw_program, check_programs, 32, 0.36),
    "values": Kind(draw_value, check_values, 1, 0.03),
    "files": Kind(draw_file, check_files, 1, 0.02),
    "folders": Kind(draw_folder, check_folders, 1, 0.03),
    "settings": Kind(draw_settings, check_settings, 1, 0.01),
}


def draw(kind: str, seed: int, number: int) -> tuple:
    return KINDS[kind].draw(random.Random(f"{seed} {kind} {number}"))


def stop_it(number: int, frame) -> None:
    raise TooSlow("no end in sight")


def examine(kind: str, world: World, cases: list[tuple]) -> list[tuple[int, str]]:
    """(position, what is wrong) of the cases in which something is; a batch that fails as a whole is split."""
    signal.signal(signal.SIGVTALRM, stop_it)
    signal.setitimer(signal.ITIMER_VIRTUAL, NEVER)
    try:
        said = KINDS[kind].check(world, cases)
        return [(position, wrong) for position, wrong in enumerate(said) if wrong]
    except (Exception, TooSlow) as error:
        wrong = place_of(error)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    if len(cases) == 1:
        return [(0, wrong)]
    half = len(cases) // 2
    return examine(kind, world, cases[:half]) + [(half + position, wrong) for position, wrong in
                                                 examine(kind, world, cases[half:])]


def place_of(error: BaseException) -> str:
    """An exception without what hangs on the case: its class and the innermost of our functions that it passed."""
    if isinstance(error, (TooSlow, AssertionError)):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if str(ROOT) in frame.filename and "site-packages" not in frame.filename
            and ".venv" not in frame.filename]
    return f"{type(error).__name__} in {Path(ours[-1].filename).relative_to(ROOT)}, {ours[-1].name}"


def seen_again(kind: str, world: World, case: tuple, wrong: str, tries: int = 3) -> bool:
    return any((0, wrong) in examine(kind, world, [case]) for _ in range(tries))


def smaller(part) -> Iterator:
    """Simpler things in the place of a part of a case, the boldest first."""
    if isinstance(part, Fixed) or part is None or isinstance(part, bool):
        return
    if isinstance(part, (str, bytes, list, tuple)):
        step = len(part)
        while step:
            yield from (part[:start] + part[start + step:] for start in range(0, len(part), step))
            step //= 2
    if isinstance(part, (list, tuple)):
        yield from part
        for i, item in enumerate(part):
            yield from (part[:i] + type(part)([other]) + part[i + 1:] for other in smaller(item))
    elif isinstance(part, (set, frozenset)):
        yield from (type(part)(items) for items in smaller(draws.ordered(part)) if isinstance(items, list) and
                    all(map(draws.hashable, items)))
        yield from draws.ordered(part)
    elif isinstance(part, dict):
        yield from part.values()
        yield from (dict(items) for items in smaller(list(part.items())) if isinstance(items, list) and
                    all(isinstance(item, tuple) and len(item) == 2 and draws.hashable(item[0]) for item in items))
    elif isinstance(part, (int, float, complex)):
        yield from (simple for simple in (0, 1, int(part.real / 2) if abs(part) < 1e300 else 2) if simple != part
                    and (not simple or abs(simple) < abs(part)))
    elif isinstance(part, str) and len(part) < 40:
        yield from (part[:i] + "a" + part[i + 1:] for i, character in enumerate(part) if character != "a")


def shrink(kind: str, world: World, case: tuple, wrong: str, seconds: float = SHRINK_SECONDS) -> tuple:
    """A small case in which the same is wrong."""
    ends, going = time.monotonic() + seconds, True
    while going:
        going = False
        for i, part in enumerate(case):
            for other in smaller(part):
                if time.monotonic() > ends:
                    return case
                if type(other) is not type(part) and kind != "values":
                    continue
                candidate = case[:i] + (other,) + case[i + 1:]
                if seen_again(kind, world, candidate, wrong, 1):
                    case, going = candidate, True
                    break
            if going:
                break
    return case


def written(part) -> str:
    try:
        text = draws.written(part) if not isinstance(part, str) else ascii(str(part))
    except RecursionError:
        text = f"a {type(part).__name__} too deep to be written"
    return text if len(text) <= 5000 else f"{text[:2500]} [... {len(text) - 5000:,} characters ...] {text[-2500:]}"


# ----------------------------------------------------------------------------------------------------------------
# The long run

def fuzz(names: list[str], seed: int, offset: int, stride: int, ends: float, told: multiprocessing.Queue) -> None:
    """Draws and checks until the time is over; puts ("count", kind, cases) and ("finding", ...) into the queue. This
    process takes every `stride`-th batch."""
    spent, batch, known = dict.fromkeys(names, 0.0), dict.fromkeys(names, offset), set()
    with make_world(bounded=True) as world:
        while time.time() < ends:
            name = min(names, key=lambda name: spent[name] / KINDS[name].share)
            start, size = time.monotonic(), KINDS[name].batch
            numbers = range(batch[name] * size, (batch[name] + 1) * size)
            batch[name] += stride
            cases = [draw(name, seed, number) for number in numbers]
            found = examine(name, world, cases)
            spent[name] += time.monotonic() - start  # not what shrinking takes
            for position, wrong in found:
                told.put(("finding", name, wrong, numbers[position], None))
                if (name, wrong) not in known and seen_again(name, world, cases[position], wrong):
                    known.add((name, wrong))
                    small = shrink(name, world, cases[position], wrong)
                    told.put(("finding", name, wrong, numbers[position], list(map(written, small))))
            told.put(("count", name, size))


def watch(told: multiprocessing.Queue, workers: list, seed: int, out: Path, every: float = 10) -> int:
    """Counts, writes findings down and shows how it goes, until all workers have ended; how many findings count."""
    done, findings, shown, start, going = Counter(), {}, time.time(), time.time(), True
    while going:
        going = any(worker.is_alive() for worker in workers)
        with contextlib.suppress(queue.Empty):
            what, *rest = told.get(timeout=1)
            going = True
            if what == "count":
                done[rest[0]] += rest[1]
            elif what == "finding":
                name, wrong, number, small = rest
                entry = findings.setdefault((name, wrong), {"times": 0, "number": number, "small": None})
                entry["times"] += small is None
                if small and (entry["small"] is None or sum(map(len, small)) < sum(map(len, entry["small"]))):
                    entry |= {"number": number, "small": small}
                    write_finding(out, seed, name, wrong, entry)
        if time.time() - shown > every:
            shown = time.time()
            counts = ", ".join(f"{count:,} {name}" for name, count in done.items())
            print(f"{shown - start:5.0f} s  {counts}; {len(findings)} findings", flush=True)
    print("\n" + "\n".join(f"{name:9} {count:>10,} cases, {count / (time.time() - start):8.1f} a second"
                           for name, count in done.items()))
    for (name, wrong), entry in sorted(findings.items()):
        rare = "" if entry["small"] else " (not seen again alone)"
        print(f"{name}: {wrong}; {entry['times']} times, first in case {entry['number']}{rare}")
        if entry["small"]:
            print("    " + " | ".join(text if len(text) < 300 else text[:300] + "..." for text in entry["small"]))
    # What took long once and not again was the machine.
    return sum(bool(entry["small"]) or not wrong.startswith("over ") for (_, wrong), entry in findings.items())


def write_finding(out: Path, seed: int, name: str, wrong: str, entry: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{name}-{hashlib.sha256(wrong.encode()).hexdigest()[:8]}.txt"
    file.write_text(f"{name}: {wrong}\npython -m tests.fuzz --again {name} {seed} {entry['number']}\n\n"
                    + "\n".join(entry["small"]) + "\n")


def once_more(name: str, seed: int, number: int) -> int:
    """One case, with what is wrong and the traceback, if any."""
    case = draw(name, seed, number)
    print(" | ".join(map(written, case)))
    with make_world(bounded=True) as world:
        found = examine(name, world, [case])
        print(found[0][1] if found else "nothing is wrong")
        with contextlib.suppress(TooSlow):
            if found and " in " in found[0][1]:
                KINDS[name].check(world, [case])
    return bool(found)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes, each with an executor of one worker")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"), help="the folder for findings")
    parser.add_argument("--again", nargs=3, metavar=("KIND", "SEED", "NUMBER"), help="one case of an earlier run")
    args = parser.parse_args(argv)
    if args.again:
        return once_more(args.again[0], int(args.again[1]), int(args.again[2]))
    context = multiprocessing.get_context("spawn")
    told, ends = context.Queue(), time.time() + 60 * args.minutes
    processes = [context.Process(target=fuzz, args=(args.only, args.seed, worker, args.workers, ends, told))
                 for worker in range(args.workers)]
    for process in processes:
        process.start()
    found = watch(told, processes, args.seed, args.out)
    for process in processes:
        process.join()
    return 1 if found or any(process.exitcode for process in processes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

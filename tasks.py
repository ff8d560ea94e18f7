"""
The three task types of Absolute Zero, as data plus a few functions (paper section 3.2).

A triplet is (program, input, output); each task type hides one of the three:

    deduction   program + input  -> output      the answer is a literal
    abduction   program + output -> input       the answer is a call's arguments, any that give the output
    induction   examples + message -> program   the answer is a program, judged on hidden examples

Every response, in both roles, reads `<think>...</think><answer>...</answer>` and gives what it has to give in
fenced blocks (```python, ```input, ```output, ```message), in any order. The prompt ends inside the think tag.

Order of reading: Task and TaskType, the three types, prompts, parsing, `gate` (proposals -> tasks), `verify`
(answers -> verdicts), buffers. Nothing here evaluates model text: programs run in executor.py's processes,
inputs and answers are parsed as literals and compared in `same_value`.
"""
import ast
import hashlib
import json
import random
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from executor import ALLOWED_IMPORTS, Executor, Job, Run, parse_arguments, parse_literal, same_value, show

MAX_PROGRAM_CHARS = 4_000
# Official code cuts longer values to 200 + "..." + 200 characters and keeps the (then unsolvable) task; we refuse it.
MAX_VALUE_CHARS = 400


@dataclass(frozen=True)
class Task:
    """A valid task. Deduction and abduction hold one input and output, induction N of them in the proposer's order,
    the first half shown to the solver, the second half hidden. `key` names the program, not the task."""
    type: str
    program: str
    inputs: tuple[tuple, ...]   # each entry: the positional arguments of one call of f
    outputs: tuple              # f(*inputs[i]), plain literal data
    message: str = ""           # induction: the proposer's hint
    step: int = 0               # the step that proposed it; 0 is seeding
    key: str = ""               # program_key(program)

    @property
    def depth(self) -> int:
        """Statements of the program, without defs and returns: the nano preset's measure of difficulty."""
        statements = (node for node in ast.walk(parse_program(self.program)) if isinstance(node, ast.stmt))
        return sum(not isinstance(node, (ast.FunctionDef, ast.Return)) for node in statements)


class Rejected(Exception):
    """A proposal or answer that cannot be used; its text is the reason that is counted and logged."""


@dataclass(frozen=True)
class TaskType:
    """What differs between the three types. A block is a (fence language, text) pair."""
    name: str
    proposal: str                                        # instructions to the proposer (r1 and chat prompts)
    solution: str                                        # instructions to the solver
    show_reference: Callable[[Task], list]               # what the proposer sees of a reference
    show_task: Callable[[Task], list]                    # what the solver sees
    draft: Callable[[list, Task | None, int], tuple]     # proposal's blocks -> (program, input texts, message)
    attempt: Callable[[Task, list], Job | list[Run]]     # solver's blocks -> a job to run, or its runs at once
    targets: Callable[[Task], tuple]                     # what those runs must return, in the trainer only
    given_program: bool = False                          # the proposer is given a program instead of references


def arguments(args: tuple) -> str:
    return ", ".join(show(value) for value in args)


def blocks_of(blocks: list, *languages: str) -> list[str]:
    return [text for language, text in blocks if language in languages]


def first_block(blocks: list, missing: str, *languages: str) -> str:
    found = blocks_of(blocks, *languages)
    if not found:
        raise Rejected(missing)
    return found[0]


def code_and_input(blocks: list, reference: Task | None, n_inputs: int) -> tuple[str, list[str], str]:
    program = first_block(blocks, "no code block", "python", "py", "")
    return program, [first_block(blocks, "no input block", "input")], ""


def inputs_and_message(blocks: list, reference: Task, n_inputs: int) -> tuple[str, list[str], str]:
    inputs = blocks_of(blocks, "input")
    if len(inputs) < n_inputs:
        raise Rejected("too few inputs" if inputs else "no input block")
    # The last N, as in the official code: a model may think again.
    return reference.program, inputs[-n_inputs:], first_block(blocks, "no message", "message").strip()


def deduction_attempt(task: Task, blocks: list) -> list[Run]:
    try:
        return [Run("ok", parse_literal(first_block(blocks, "no answer", "output")))]
    except ValueError as error:
        raise Rejected("answer not a literal") from error


def abduction_attempt(task: Task, blocks: list) -> Job:
    try:
        return Job(task.program, (parse_arguments(first_block(blocks, "no answer", "input")),))
    except ValueError as error:
        raise Rejected("answer not a literal") from error


def induction_attempt(task: Task, blocks: list) -> Job:
    program = first_block(blocks, "no answer", "python", "py", "")
    inspect_program(program)  # the solver's program meets the same rules as a proposed one
    return Job(program, task.inputs[len(task.inputs) // 2:])


def show_triplet(task: Task) -> list:
    return [("python", task.program), ("input", arguments(task.inputs[0])), ("output", show(task.outputs[0]))]


def show_examples(task: Task) -> list:
    shown = len(task.inputs) // 2
    pairs = zip(task.inputs[:shown], task.outputs[:shown])
    blocks = [block for args, value in pairs for block in (("input", arguments(args)), ("output", show(value)))]
    return blocks + [("message", task.message)]


PROGRAM_RULES = f"""Rules for the program:
- its entry is a function named `f` with at least one parameter, and it returns its result; helper functions and
  classes are welcome, placed above `f`;
- the same input always gives the same output: no randomness, dates, files, network, printing or outside state;
- it may import only from: {", ".join(ALLOWED_IMPORTS)};
- it runs in a fraction of a second, and both input and output are plain data (numbers, strings, booleans, None,
  lists, tuples, dictionaries, sets) of at most {MAX_VALUE_CHARS} characters.
You are graded on whether it runs and on how instructive it is: a good solver should get it right sometimes but not
always, so let several steps change some state. Be original."""

PROPOSAL_FORM = """
The input is written as the arguments of one call of `f`, separated by commas. The answer has exactly this form:
<answer>
```python
def f(items, word):
    ...
    return ...
```
```input
[3, 1], 'ab'
```
</answer>"""
INDUCTION_FORM = """
Each input is written as the arguments of one call of `f`, separated by commas. The answer has exactly this form, with
{n_inputs} input blocks:
<answer>
```input
[3, 1], 'ab'
```
```input
[], 'xyz'
```
...
```message
...
```
</answer>"""

DEDUCTION = TaskType(
    name="deduction",
    proposal="Invent a Python program together with one input for it. A solver will see the program and the input and"
    " must work out the output in its head, so choose a computation that takes careful reasoning to follow.\n"
    + PROGRAM_RULES + PROPOSAL_FORM,
    solution="Work out what `f` returns for the input below. The answer is the value, as a Python literal, in exactly"
    " this form:\n<answer>\n```output\n[1, 'a']\n```\n</answer>",
    show_reference=show_triplet,
    show_task=lambda task: show_triplet(task)[:2],
    draft=code_and_input,
    attempt=deduction_attempt,
    targets=lambda task: task.outputs,
)
ABDUCTION = TaskType(
    name="abduction",
    proposal="Invent a Python program together with one input for it. A solver will see the program and the output and"
    " must find an input that gives this output, so choose a computation that takes careful reasoning to undo.\n"
    + PROGRAM_RULES + PROPOSAL_FORM,
    solution="Find an input for which `f` returns the output below; any such input will do. The answer is the"
    " arguments of one call of `f`, Python literals separated by commas, in exactly this form:\n<answer>\n```input\n"
    "[3, 1], 'ab'\n```\n</answer>",
    show_reference=show_triplet,
    show_task=lambda task: [block for block in show_triplet(task) if block[0] != "input"],
    draft=code_and_input,
    attempt=abduction_attempt,
    targets=lambda task: task.outputs,
)
INDUCTION = TaskType(
    name="induction",
    proposal="Below is a Python program. Choose {n_inputs} inputs for it, as different from each other as you can, and"
    " write a short message. A solver will see half of the inputs with their outputs and your message, and must"
    " write a program that behaves the same on the other half. Together they should pin the function down without"
    " giving it away; the message may describe the task but must not contain the code." + INDUCTION_FORM,
    solution="Below are inputs and outputs of a hidden function, and a message about it. Write a Python program with a"
    " function `f` that gives these outputs and also the right ones on further, hidden inputs. It may import only"
    f" from: {', '.join(ALLOWED_IMPORTS)}. The answer has exactly this form:\n<answer>\n```python\ndef f(...):\n    ..."
    "\n    return ...\n```\n</answer>",
    show_reference=lambda task: [("python", task.program)],
    show_task=show_examples,
    draft=inputs_and_message,
    attempt=induction_attempt,
    targets=lambda task: task.outputs[len(task.outputs) // 2:],
    given_program=True,
)
TYPES = {type.name: type for type in (DEDUCTION, ABDUCTION, INDUCTION)}


# ----------------------------------------------------------------------------------------------------------------
# Prompts

PREAMBLE = """A conversation between a User and an Assistant. The User asks a question, and the Assistant solves it.
The Assistant first reasons in its mind and then gives the answer. The reasoning stands between <think> and </think>,
the answer between <answer> and </answer>, like this: <think> reasoning here </think> <answer> answer here </answer>
"""
CHAT_RULE = """First reason step by step between <think> and </think>, then give the final answer between <answer> and
</answer>, with nothing after it: <think> reasoning here </think> <answer> answer here </answer>
"""


def fence(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


@dataclass(frozen=True)
class Style:
    """How prompts are worded: `compact` (a few tokens, for nano), `r1` (English instructions after a think/answer
    preamble, for base models), `chat` (the same instructions, with `wrap` putting them into the tokenizer's
    template)."""
    name: str = "r1"
    n_inputs: int = 10
    wrap: Callable[[str], str] | None = None


def build_prompt(style: Style, role: str, type: TaskType, shown: list[list]) -> str:
    """The prompt as text. `role` is "propose" or "solve", `shown` a list of block groups (the references, or the one
    task), last in the prompt so that the instructions before them are a shared prefix of all prompts of a kind."""
    texts = ["\n".join(fence(*block) for block in blocks) for blocks in shown]
    if style.name == "compact":
        return "\n".join([f"{role} {type.name}", *texts, "<think>"])
    if role == "propose" and texts and not type.given_program:
        references = [f"Reference {i}:\n{text}" for i, text in enumerate(texts, 1)]
        texts = ["Your task should differ from these earlier ones.", *references]
    instructions = type.proposal if role == "propose" else type.solution
    # Small models forget the form by the end of a long prompt, so the last line reminds them of it.
    reminder = "Think first, then write the whole answer between <answer> and </answer>, in the form given above."
    question = "\n\n".join([instructions.replace("{n_inputs}", str(style.n_inputs)), *texts, reminder])
    if style.name == "chat":
        text = style.wrap(f"{CHAT_RULE}\n{question}")
        return text if text.rstrip().endswith("<think>") else text + "<think>"  # some templates open it themselves
    return f"{PREAMBLE}User: {question}\nAssistant: <think>"


def propose_prompt(style: Style, type: TaskType, references: list[Task]) -> str:
    return build_prompt(style, "propose", type, [type.show_reference(task) for task in references])


def solve_prompt(style: Style, task: Task) -> str:
    type = TYPES[task.type]
    return build_prompt(style, "solve", type, [type.show_task(task)])


# ----------------------------------------------------------------------------------------------------------------
# Parsing. A response is the text sampled after "<think>".

FORMAT = re.compile(r"\A<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
# Possessive (*+) and with nothing optional after (.*?): linear even where a policy repeats white space without end.
FENCED = re.compile(r"```[ \t]*+(\w*+)[ \t]*+\n(.*?)```", re.DOTALL)


def well_formed(response: str) -> bool:
    """The paper's format: a think part, an answer part, only white space between (section 3.1, R_format)."""
    return FORMAT.match("<think>" + response) is not None


def answer_blocks(response: str) -> list[tuple[str, str]]:
    """The fenced blocks of the last answer part; of the whole response where there is none (seeding takes both)."""
    start = response.rfind("<answer>")
    answer = response[start + len("<answer>"):] if start >= 0 else response
    found = FENCED.findall(answer.split("</answer>")[0])
    return [(language, text.rstrip(" \t").removesuffix("\n")) for language, text in found]


def parse_program(program: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in model text are not news
        return ast.parse(program)


def inspect_program(program: str) -> str:
    """The static half of the gate. Parses (never compiles: nested comprehensions crash some CPython compilers) and
    returns the program's key; raises Rejected with the reason."""
    if len(program) > MAX_PROGRAM_CHARS:
        raise Rejected("program too long")
    try:
        tree = parse_program(program)
        key = tree_key(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Rejected("does not parse") from error
    if not any(isinstance(node, ast.FunctionDef) and node.name == "f" for node in tree.body):
        raise Rejected("no f")
    for node in ast.walk(tree):  # after tree_key, which renamed what the program binds: `hash` is the builtin here
        if isinstance(node, ast.Name) and node.id in UNSTABLE_NAMES or \
                isinstance(node, ast.Attribute) and node.attr in UNSTABLE_ATTRIBUTES:
            raise Rejected("not deterministic")
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
            ["." if node.level else node.module] if isinstance(node, ast.ImportFrom) else \
            [node.id] if isinstance(node, ast.Name) and node.id == "__import__" else []
        if any(module.split(".")[0] not in ALLOWED_IMPORTS for module in modules):
            raise Rejected("import not allowed")
        if isinstance(node, ast.ImportFrom) and any(alias.name in UNSTABLE_ATTRIBUTES for alias in node.names):
            raise Rejected("import not allowed")
    return key


# A program may be random in one bit and still agree with itself in two runs half the time, with a solve rate near one
# half: a rewarding task. These names are the ways to such bits that need no forbidden import. They serve determinism;
# keeping programs from doing harm is the executor's matter, no list of names can.
UNSTABLE_NAMES = {"hash", "id", "__builtins__"}
UNSTABLE_ATTRIBUTES = {"__hash__", "__builtins__", "__globals__", "__subclasses__", "__loader__", "__spec__", "sys",
                       "_sys", "os", "_os", "random", "_random", "modules"}


# The syntax nodes that bind a name, and those that only mention one; the attribute that holds it.
BINDS = {ast.arg: "arg", ast.FunctionDef: "name", ast.AsyncFunctionDef: "name", ast.ClassDef: "name",
         ast.alias: "asname", ast.ExceptHandler: "name", ast.MatchAs: "name", ast.MatchStar: "name",
         ast.MatchMapping: "rest"}
MENTIONS = BINDS | {ast.Name: "id", ast.keyword: "arg"}


def tree_key(tree: ast.Module) -> str:
    """A hash of the program up to layout, comments, docstrings and the names it binds. Renames `tree` in place."""
    names = {"f": "f"}
    nodes = list(ast.walk(tree))  # breadth first: the same order for the same shape
    for node in nodes:  # first what the program binds, so that builtins keep their names
        bound = node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else \
            getattr(node, BINDS.get(type(node), ""), None)
        if bound is not None:
            names.setdefault(bound, f"v{len(names)}")
    for node in nodes:
        attribute = MENTIONS.get(type(node))
        if attribute and getattr(node, attribute) in names:
            setattr(node, attribute, names[getattr(node, attribute)])
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            node.names = [names.get(name, name) for name in node.names]
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(flat(tree).encode()).hexdigest()


def flat(node) -> str:
    """The syntax tree as text, the same on every Python version (ast.dump is not: 3.12 adds fields, 3.13 drops empty
    ones), since keys decide what is held out and outlive the interpreter."""
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in node._fields)
        inner = (f"{name}={flat(value)}" for name, value in fields if value is not None and value != [])
        return f"{type(node).__name__}({','.join(inner)})"
    return f"[{','.join(map(flat, node))}]" if isinstance(node, list) else repr(node)


def program_key(program: str) -> str:
    return tree_key(parse_program(program))


def is_heldout(key: str, fraction: float) -> bool:
    """The same programs are held out in every run, seed and file: the decision hangs on the program's key alone."""
    return int(key[:8], 16) < fraction * 2**32


# ----------------------------------------------------------------------------------------------------------------
# The gate: responses of the proposer -> tasks.

@dataclass(frozen=True)
class Gated:
    task: Task | None
    reason: str = "valid"


RUN_REASONS = {"unserializable": "value not a literal", "too_big": "value too long", "refused": "no f",
               "nondeterministic": "not deterministic"}


def gate(proposals: list[tuple[TaskType, str, Task | None]], executor: Executor, step: int = 0, n_inputs: int = 10,
         strict_format: bool = True) -> list[Gated]:
    """Validates proposals (type, response, the induction proposer's reference), in order (paper section 3.3.3).

    A task is valid if it is well-formed, parses, defines f, imports only from the allow-list, takes literal arguments,
    runs on every input in two processes with different hash seeds, and returns the same plain, short value in both.
    Else the Gated holds the reason. Seeding does not ask for the think/answer format (as in the official code).
    """
    drafts, jobs = [], []
    for type, response, reference in proposals:
        try:
            drafts.append(draft(type, response, reference, n_inputs, strict_format))
            jobs.append(Job(drafts[-1][0], drafts[-1][1], seeds=2))
        except Rejected as rejected:
            drafts.append(str(rejected))
    ran = iter(executor.run(jobs))
    gated = []
    for (type, _, _), drafted in zip(proposals, drafts):
        if isinstance(drafted, str):
            gated.append(Gated(None, drafted))
            continue
        program, inputs, message, key = drafted
        runs = next(ran)
        bad = next((run for run in runs if run.kind != "ok"), None)
        if bad is not None:
            gated.append(Gated(None, RUN_REASONS.get(bad.kind, bad.kind)))
        elif any(len(show(run.value)) > MAX_VALUE_CHARS for run in runs):
            gated.append(Gated(None, "value too long"))
        elif any(mark in show([program, inputs, message, [run.value for run in runs]]) for mark in ("```", "answer>")):
            gated.append(Gated(None, "holds a fence or tag"))  # no prompt could show it, or no answer give it
        else:
            outputs = tuple(run.value for run in runs)
            gated.append(Gated(Task(type.name, program, inputs, outputs, message, step, key)))
    return gated


def draft(type: TaskType, response: str, reference: Task | None, n_inputs: int, strict_format: bool) -> tuple:
    """The gate's static half: (program, inputs, message, key), or Rejected."""
    if strict_format and not well_formed(response):
        raise Rejected("bad format")
    program, inputs, message = type.draft(answer_blocks(response), reference, n_inputs)
    key = inspect_program(program)
    if any(len(text) > MAX_VALUE_CHARS for text in (*inputs, message)):
        raise Rejected("value too long")
    try:
        parsed = tuple(map(parse_arguments, inputs))
    except ValueError as error:
        raise Rejected("input not a literal") from error
    if () in parsed:
        raise Rejected("no arguments")
    shown, hidden = parsed[:len(parsed) // 2], parsed[len(parsed) // 2:]
    if set(map(arguments, hidden)) <= set(map(arguments, shown)):
        raise Rejected("inputs repeat")  # a solver could copy the examples it was shown
    if any(len(arguments(args)) > MAX_VALUE_CHARS for args in parsed):  # prompts show values, not this text of them
        raise Rejected("value too long")
    return program, parsed, message, key


# ----------------------------------------------------------------------------------------------------------------
# Verification: responses of the solver -> verdicts.

@dataclass(frozen=True)
class Verdict:
    correct: bool
    reason: str        # "correct", "wrong", or why there was no value to compare
    well_formed: bool


def verify(answers: list[tuple[Task, str]], executor: Executor) -> list[Verdict]:
    """Judges solver responses, in order (paper eq. 5 and section 3.3.4). The true outputs stay in this process: an
    executor process only ever sees the program and the inputs, and what it returns is compared here as plain data."""
    attempts, jobs = [], []
    for task, response in answers:
        try:
            attempts.append(TYPES[task.type].attempt(task, answer_blocks(response)))
            if isinstance(attempts[-1], Job):
                jobs.append(attempts[-1])
        except Rejected as rejected:
            attempts.append(str(rejected))
    ran = iter(executor.run(jobs))
    verdicts = []
    for (task, response), attempt in zip(answers, attempts):
        if isinstance(attempt, str):
            verdicts.append(Verdict(False, attempt, well_formed(response)))
            continue
        runs = next(ran) if isinstance(attempt, Job) else attempt
        bad = next((run.kind for run in runs if run.kind != "ok"), None)
        correct = bad is None and all(same_value(run.value, true)
                                      for run, true in zip(runs, TYPES[task.type].targets(task), strict=True))
        verdicts.append(Verdict(correct, "correct" if correct else bad or "wrong", well_formed(response)))
    return verdicts


# ----------------------------------------------------------------------------------------------------------------
# Buffers

# The only triplet that is given (paper figure 5).
IDENTITY = "def f(a):\n    return a"
IDENTITY_INPUTS = (("Hello world",), (1,), ({"a": 1, "b": 2},), ((1.1, 1.2),), ("[[1, 0], [0, 0]]",),
                   (1001101100010001,))


def identity_task(type: TaskType, n_inputs: int = 10) -> Task:
    """The zero triplet; for induction, N inputs of several types with the identity's outputs."""
    inputs = IDENTITY_INPUTS[:1]
    if type.given_program:
        inputs = (*IDENTITY_INPUTS, *((i,) for i in range(2, n_inputs)))[:n_inputs]
    message = "f returns its argument." if type is INDUCTION else ""
    return Task(type.name, IDENTITY, inputs, tuple(args[0] for args in inputs), message, 0, program_key(IDENTITY))


@dataclass
class Buffers:
    """Every valid task so far by type, the newest last, and those set aside for evaluation. Full buffers drop the
    oldest (the official code drops the newest, which ends learning without a sign)."""
    size: int
    train: dict[str, list[Task]] = field(default_factory=lambda: {name: [] for name in TYPES})
    heldout: dict[str, list[Task]] = field(default_factory=lambda: {name: [] for name in TYPES})

    def add(self, task: Task, heldout: bool = False) -> None:
        buffer = (self.heldout if heldout else self.train)[task.type]
        buffer.append(task)
        del buffer[:-self.size]

    def draw_references(self, type: TaskType, k: int, rng: random.Random) -> list[Task]:
        """K distinct references, uniform over the type's buffer; for induction the one program it proposes on, uniform
        over the programs of both other types (paper section 3.2). K = 0 for the paper's ablation without references."""
        if type.given_program:
            return [rng.choice(self.train["deduction"] + self.train["abduction"])]
        pool = self.train[type.name]
        return rng.sample(pool, min(k, len(pool)))

    def draw_tasks(self, type: TaskType, n: int, newest: int, rng: random.Random) -> list[Task]:
        """The solver's n tasks: those of step `newest` first (n of them at random where there are more), topped up with
        a uniform draw of earlier ones, without repeats while there are enough (paper, algorithm 1)."""
        new = [task for task in self.train[type.name] if task.step == newest]
        earlier = [task for task in self.train[type.name] if task.step < newest] or new
        chosen = rng.sample(new, min(n, len(new)))
        while len(chosen) < n and earlier:
            chosen += rng.sample(earlier, min(n - len(chosen), len(earlier)))
        return chosen

    def to_json(self) -> dict:
        return {"size": self.size,
                "train": {name: list(map(task_to_json, tasks)) for name, tasks in self.train.items()},
                "heldout": {name: list(map(task_to_json, tasks)) for name, tasks in self.heldout.items()}}

    @staticmethod
    def from_json(data: dict) -> "Buffers":
        return Buffers(data["size"], {name: list(map(task_from_json, data["train"][name])) for name in TYPES},
                       {name: list(map(task_from_json, data["heldout"][name])) for name in TYPES})


def task_to_json(task: Task) -> dict:
    """One line of a task file: values as the literals that prompts show."""
    return {"type": task.type, "program": task.program, "inputs": [arguments(args) for args in task.inputs],
            "outputs": [show(value) for value in task.outputs], "message": task.message, "step": task.step}


def task_from_json(data: dict) -> Task:
    return Task(data["type"], data["program"], tuple(map(parse_arguments, data["inputs"])),
                tuple(map(parse_literal, data["outputs"])), data.get("message", ""), data.get("step", 0),
                program_key(data["program"]))


def load_tasks(path: str) -> list[Task]:
    """Reads a task file (JSON lines as written by `task_to_json`); ValueError names the line that is wrong."""
    tasks = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                tasks.append(task := task_from_json(json.loads(line)))
                if task.type not in TYPES or len(task.inputs) != len(task.outputs):
                    raise ValueError("unknown type, or inputs and outputs differ in number")
                if (len(task.inputs) < 2) if TYPES[task.type].given_program else (len(task.inputs) != 1):
                    raise ValueError("induction needs at least two inputs, the other types exactly one")
            except (ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
                raise ValueError(f"{path}, line {number}: not a task ({type(error).__name__}: {error})") from error
    return tasks

"""
The three task types of Absolute Zero, as data plus a few functions (paper section 3.2), and the official code's fourth.

A triplet is (program, input, output); each task type hides one of the three:

    deduction   program + input  -> output      the answer is a literal
    abduction   program + output -> input       the answer is a call's arguments, any that give the output
    induction   examples + message -> program   the answer is a program, judged on hidden examples
    error       program + input  -> exception   the answer is its name, or NoError; off unless --types has it

Every response, in both roles, reads `<think>...</think><answer>...</answer>` and gives what it has to give in
fenced blocks (```python, ```input, ```output, ```message), in any order. The prompt ends inside the think tag.

Order of reading: Task and TaskType, the types, prompts, responses, `read` (model text -> data), `gate` (proposals ->
tasks), `verify` (answers -> verdicts), buffers, task files. Nothing here evaluates or even parses model text: the
executor's processes do, and what comes back is plain data that `same_value` compares. All else that the project knows
of a type it knows from TYPES.
"""
import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import cycle, islice

from sandbox import parsing
from executor import Executor, Job, Outcome
from sandbox.determinism import ALLOWED_IMPORTS
from sandbox.flipped import ORDERS
from sandbox.values import MAX_VALUE, same_value, show

MAX_PROGRAM_CHARS = 4_000
# Official code cuts longer values to 200 + "..." + 200 characters and keeps the (then unsolvable) task; we refuse it.
MAX_VALUE_CHARS = 400
MAX_ANSWER_CHARS = 4_000  # of a value that answers: more than any true value has, and bounded work for the trainer


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
    key: str = ""               # parsing.inspect_program: the program up to layout and names
    depth: int = 0              # its statements, without defs and returns
    heldout: bool = False       # kept for evaluation: neither trained on nor shown
    group: str = ""             # held-out files: a name for a row of their own in tables

    @cached_property
    def id(self) -> str:
        return task_id(task_to_json(self))


class Rejected(Exception):
    """A proposal or answer that cannot be used; its text is the reason that is counted and logged, `why` says more."""

    def __init__(self, reason: str, why: str = ""):
        super().__init__(reason)
        self.why = why


@dataclass(frozen=True)
class TaskType:
    """All that differs between task types. A block is a (fence language, text) pair."""
    name: str
    proposal: str                                        # instructions to the proposer (r1 and chat prompts)
    solution: str                                        # instructions to the solver
    show_reference: Callable[[Task], list]               # the blocks that the proposer sees of a reference
    show_task: Callable[[Task], list]                    # the blocks that the solver sees
    draft: Callable[[list, Task | None, int], tuple]     # proposal's blocks -> (program, input texts, message)
    answer: tuple[str, ...]                              # fence languages of the solver's answer ...
    reader: str                                          # ... and the function of parsing.py that reads it, if any
    attempt: Callable[[Task, str, object], Job | list[Outcome]]  # (task, text, what was read) -> a job, or its outcomes
    targets: Callable[[Task], tuple]                     # what those outcomes must be; never leaves the trainer
    hidden: Callable[[Task], str]                        # the answer, for people
    given_program: bool = False                          # the proposer is given a program instead of references ...
    gives_programs: bool = True                          # ... and this is a type whose programs it may be given
    observe: Callable[[Outcome], Outcome] = lambda outcome: outcome  # what a task keeps of its program's outcome
    paper: bool = True                                   # trained if --types is not given
    thought: str = ""                                    # of the solver of the worked example


CODE = ("python", "py", "")  # fence languages of a program


def arguments(args: tuple) -> str:
    return ", ".join(show(value) for value in args)


def blocks_of(blocks: list, *languages: str | None) -> list[str]:
    return [text for language, text in blocks if language in languages]


def first_block(blocks: list, missing: str, *languages: str) -> str:
    texts = blocks_of(blocks, *languages)
    if not texts:
        raise Rejected(missing)
    return texts[0]


def code_and_input(blocks: list, reference: Task | None, n_inputs: int) -> tuple[str, list[str], str]:
    program = first_block(blocks, "no code block", *CODE)
    return program, [first_block(blocks, "no input block", "input")], ""


def inputs_and_message(blocks: list, reference: Task, n_inputs: int) -> tuple[str, list[str], str]:
    inputs = blocks_of(blocks, "input")
    if len(inputs) < n_inputs:
        raise Rejected("too few inputs" if inputs else "no input block")
    # The last N, as in the official code: a model may think again.
    return reference.program, inputs[-n_inputs:], first_block(blocks, "no message", "message").strip()


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
def f(...):
    ...
    return ...
```
```input
...
```
</answer>"""
INDUCTION_FORM = """
Each input is written as the arguments of one call of `f`, separated by commas. The answer has exactly this form, with
{n_inputs} input blocks:
<answer>
```input
...
```
```input
...
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
    " this form:\n<answer>\n```output\n...\n```\n</answer>",
    show_reference=show_triplet,
    show_task=lambda task: show_triplet(task)[:2],
    draft=code_and_input,
    answer=("output",),
    reader="parse_literal",
    attempt=lambda task, text, value: [Outcome("ok", value)],
    targets=lambda task: task.outputs,
    hidden=lambda task: show(task.outputs[0]),
    thought="a is 3 and b is 4, so c is 7, and c * 2 is 14.",
)
ABDUCTION = TaskType(
    name="abduction",
    proposal="Invent a Python program together with one input for it. A solver will see the program and the output and"
    " must find an input that gives this output, so choose a computation that takes careful reasoning to undo.\n"
    + PROGRAM_RULES + PROPOSAL_FORM,
    solution="Find an input for which `f` returns the output below; any such input will do. The answer is the"
    " arguments of one call of `f`, Python literals separated by commas, in exactly this form:\n<answer>\n```input\n"
    "...\n```\n</answer>",
    show_reference=show_triplet,
    show_task=lambda task: [block for block in show_triplet(task) if block[0] != "input"],
    draft=code_and_input,
    answer=("input",),
    reader="parse_arguments",
    attempt=lambda task, text, args: Job(task.program, (args,)),
    targets=lambda task: task.outputs,
    hidden=lambda task: arguments(task.inputs[0]),
    thought="c * 2 is 14, so c is 7. The sum of 3 and 4 is 7.",
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
    answer=CODE,
    reader="inspect_program",  # the solver's program meets the same rules as a proposed one
    attempt=lambda task, program, facts: Job(program, task.inputs[len(task.inputs) // 2:]),
    targets=lambda task: task.outputs[len(task.outputs) // 2:],
    hidden=lambda task: task.program,
    given_program=True,
    gives_programs=False,
    thought="3 and 4 give 14, twice their sum; so do 0 and 0, and -2 and 5 with 6.",
)


def raised(outcome: Outcome) -> Outcome:
    """The name of the exception as the value, NoError where there was none."""
    if outcome.kind not in ("ok", "error"):
        return outcome
    return Outcome("ok", outcome.exception if outcome.kind == "error" else "NoError")


def exception_name(text: str) -> str:
    """The name in an answer, which may go on with a message as a traceback's last line does; case does not count."""
    return text.strip().split(":")[0].rstrip().lower()


# The official code's fourth type, off in its recipe and here; the paper has three.
ERROR = TaskType(
    name="error",
    proposal="Invent a Python program together with one input for it. A solver will see the program and the input and"
    " must say which exception `f` raises, if any, so choose a computation that fails, or seems to, in a way that"
    " takes careful reasoning to foresee.\n" + PROGRAM_RULES + PROPOSAL_FORM,
    solution="Work out whether `f` raises an exception for the input below. The answer is the name of its class, or"
    " NoError if there is none, in exactly this form:\n<answer>\n```output\n...\n```\n</answer>",
    show_reference=lambda task: show_triplet(task)[:2] + [("output", task.outputs[0])],
    show_task=lambda task: show_triplet(task)[:2],
    draft=code_and_input,
    answer=("output",),
    reader="",
    attempt=lambda task, text, _: [Outcome("ok", exception_name(text))],
    targets=lambda task: (task.outputs[0].lower(),),
    hidden=lambda task: task.outputs[0],
    gives_programs=False,
    observe=raised,
    paper=False,
    thought="3 + 4 is 7 and 7 * 2 is 14, so nothing is raised.",
)
TYPES = {type.name: type for type in (DEDUCTION, ABDUCTION, INDUCTION, ERROR)}


# ----------------------------------------------------------------------------------------------------------------
# Prompts

PREAMBLE = """A conversation between a User and an Assistant. The User asks a question, and the Assistant solves it.
The Assistant first reasons in its mind and then gives the answer. The reasoning stands between <think> and </think>,
the answer between <answer> and </answer>, like this: <think> reasoning here </think> <answer> answer here </answer>
"""
CHAT_RULE = """First reason step by step between <think> and </think>, then give the final answer between <answer> and
</answer>, and end with </answer>.
"""


def fence(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


@dataclass(frozen=True)
class Style:
    """How prompts are worded: `compact` (a few tokens, for nano), `r1` (English instructions after a think/answer
    preamble, for base models), `chat` (the same instructions, with `wrap` putting them into the tokenizer's
    template). `example`: r1 and chat show a worked example, for models that do not know the form. `stops`: texts at
    which a response ends. `markers`: texts that no task may hold, since the tokenizer or template takes them for its
    own."""
    name: str = "r1"
    n_inputs: int = 10
    wrap: Callable[..., str] | None = None  # of a user's turn, and perhaps of the assistant's and user's turns after it
    example: bool = False
    stops: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()


# Programs of our own for the worked examples. Proposers are shown one of several, so that no single one is the easiest
# thing to write, and what copies one earns nothing (train.py, --refuse_copies).
EXAMPLE = "def f(a, b):\n    c = a + b\n    return c * 2"
EXAMPLE_INPUTS = ((3, 4), (0, 0), (-2, 5), (10, 1), (7, 7), (-3, -6), (100, 50), (1, 0), (8, -8), (2.5, 4))
PROPOSALS = (
    ("def f(word, n):\n    turned = word[n:] + word[:n]\n    return turned.upper()", "'table', 2",
     "A word can be turned, so I move n letters to its end and change its case: two steps, easy to mix up."),
    ("def f(numbers):\n    total = 0\n    for x in numbers:\n        total += x if x > 2 else 1\n    return total",
     "[3, 1, 5]", "I add up the large numbers and count the small ones: a short loop, but each has to be looked at."),
    ("def f(a, b):\n    ends = {'low': min(a, b), 'high': max(a, b)}\n    return ends['high'] - ends['low'] + 1",
     "12, 7", "Two numbers span a range. I keep its ends in a dictionary and count what lies between, with the ends."))
EXAMPLE_KEYS = {parsing.program_key(program) for program in (EXAMPLE, *(program for program, _, _ in PROPOSALS))}


def example_task(type: TaskType, n_inputs: int) -> Task:
    inputs = EXAMPLE_INPUTS[:n_inputs if type.given_program else 1]
    outputs = tuple(type.observe(Outcome("ok", (a + b) * 2)).value for a, b in inputs)
    return Task(type.name, EXAMPLE, inputs, outputs, "Two numbers become one; think of sums.")


def worked_example(type: TaskType, role: str, n_inputs: int, which: int) -> tuple[str, str]:
    """What is shown, perhaps nothing, and a whole response; `which` chooses among the proposer's examples."""
    task = example_task(type, n_inputs)
    if role == "solve":
        shown, thought, answer = type.show_task(task), type.thought, [(type.answer[0], type.hidden(task))]
    elif type.given_program:
        shown, thought = type.show_reference(task), "f doubles a sum, so I take small, equal, negative, large numbers."
        answer = [*(("input", arguments(args)) for args in task.inputs), ("message", task.message)]
    else:
        program, given, thought = PROPOSALS[which % len(PROPOSALS)]
        shown, answer = [], [("python", program), ("input", given)]
    given, told = ("\n".join(fence(*block) for block in group) for group in (shown, answer))
    return given, f"<think> {thought} </think>\n<answer>\n{told}\n</answer>"


def build_prompt(style: Style, role: str, type: TaskType, shown: list[list], which: int = 0) -> str:
    """The prompt as text. `role` is "propose" or "solve", `shown` a list of block groups (the references, or the one
    task), last in the prompt so that the instructions before them are a shared prefix of all prompts of a kind."""
    texts = ["\n".join(fence(*block) for block in blocks) for blocks in shown]
    if style.name == "compact":
        return "\n".join([f"{role} {type.name}", *texts, "<think>"])
    if role == "propose" and texts and not type.given_program:
        references = [f"Reference {i}:\n{text}" for i, text in enumerate(texts, 1)]
        texts = ["Your task should differ from these earlier ones.", *references]
    instructions = (type.proposal if role == "propose" else type.solution).replace("{n_inputs}", str(style.n_inputs))
    # Small models forget the form by the end of a long prompt, so the last line reminds them of it.
    reminder = "Think first, then write the whole answer between <answer> and </answer>, in the form given above."
    texts.append(reminder)
    if style.example:
        given, response = worked_example(type, role, style.n_inputs, which)
        turn = f"Now it is your turn{', with something new' * (role == 'propose')}."
        if style.name == "chat":  # as a turn of its own: Instruct models follow it, and end as it ends
            first = "\n\n".join([instructions, *[given] * bool(given), reminder])
            text = chat_prompt(style.wrap, first, response, "\n\n".join([turn, *texts]))
            if response in text:
                return text  # else the template cuts thoughts out of earlier turns, as Qwen3's does
        texts = ["\n".join(["Here is an example.", *[given] * bool(given), response, turn]), *texts]
    question = "\n\n".join([instructions, *texts])
    return chat_prompt(style.wrap, question) if style.name == "chat" else base_prompt(question)


def chat_prompt(wrap: Callable[..., str], question: str, *turns: str) -> str:
    """`turns`: a response to the question, the next question, ..."""
    text = wrap(f"{CHAT_RULE}\n{question}", *turns)
    return text if text.rstrip().endswith("<think>") else text + "<think>"  # some templates open it themselves


def base_prompt(question: str) -> str:
    return f"{PREAMBLE}User: {question}\nAssistant: <think>"


def propose_prompt(style: Style, type: TaskType, references: list[Task], which: int = 0) -> str:
    return build_prompt(style, "propose", type, [type.show_reference(task) for task in references], which)


def solve_prompt(style: Style, task: Task) -> str:
    type = TYPES[task.type]
    return build_prompt(style, "solve", type, [type.show_task(task)])


# ----------------------------------------------------------------------------------------------------------------
# Parsing. A response is the text sampled after "<think>".

KEY = re.compile(r"[0-9a-f]{64}")
OPENING = re.compile(r"</think>\s*<answer>")
MAX_BLOCKS = 1000  # of a response that are read, five times what any task has: a text of 1 MB can hold 125,000
# Possessive (*+) and with nothing optional after (.*?): linear even where a policy repeats white space without end.
FENCED = re.compile(r"```[ \t]*+(\w*+)[ \t]*+\n(.*?)```", re.DOTALL)


def answer_part(response: str) -> str | None:
    """The text of the first answer part; None without the paper's format: a think part, an answer part, only white
    space between (section 3.1, R_format). What stands behind it counts for nothing."""
    opening = OPENING.search(response)
    end = response.find("</answer>", opening.end()) if opening else -1
    return response[opening.end():end] if end >= 0 else None


def well_formed(response: str) -> bool:
    return answer_part(response) is not None


def answer_blocks(response: str) -> list[tuple[str | None, str]]:
    """The fenced blocks of the answer part, of the whole response where there is none (seeding takes both). An answer
    part without any fence is one block whose language is None: it may be the literal or program itself."""
    answer = answer_part(response)
    if answer is not None and "```" not in answer:
        return [(None, answer.strip())] * bool(answer.strip())
    text = (response.partition("<answer>")[2] or response).partition("</answer>")[0] if answer is None else answer
    return [(language, text.rstrip(" \t").removesuffix("\n"))
            for language, text in map(re.Match.groups, islice(FENCED.finditer(text), MAX_BLOCKS))]


# ----------------------------------------------------------------------------------------------------------------
# Reading model text, in the executor's processes

def read(texts: list[tuple[str, str]], executor: Executor, limits: tuple | None = None,
         most: int = MAX_VALUE) -> list[Outcome]:
    """What the readers (functions of parsing.py) make of texts [(reader, text)], in order: Outcomes with a value (of
    `most` characters), or that of a text that cannot be read. One child reads many texts; one that takes it down with
    it costs only itself."""
    outcomes = {}
    for reader in dict.fromkeys(reader for reader, _ in texts if reader):
        groups = chunks(list(dict.fromkeys(text for other, text in texts if other == reader)), 32)
        program = f"from sandbox.parsing import {reader}"
        jobs = [Job(program, tuple((text,) for text in group), reader, limits=limits, most=most) for group in groups]
        for group, read_there in zip(groups, executor.run(jobs)):
            outcomes |= {(reader, text): outcome for text, outcome in zip(group, read_there)}
    return [outcomes[key] if key[0] else Outcome("ok", key[1]) for key in texts]


def chunks(items: list, size: int) -> list[list]:
    return [items[start:start + size] for start in range(0, len(items), size)]


def check_program(text: str, facts: Outcome) -> None:
    """Rejected, unless `facts` is inspect_program's approval of the program."""
    if len(text) > MAX_PROGRAM_CHARS:
        raise Rejected("program too long")
    if facts.kind == "infra":
        raise Rejected("infra")
    if facts.kind != "ok" or not are_facts(facts.value):  # or its parser died of it
        raise Rejected("does not parse")
    if facts.value["reason"]:
        raise Rejected(facts.value["reason"], facts.value["why"])


def are_facts(value: object) -> bool:
    """Whether this can be what inspect_program said, and not a text that has taken its reader over."""
    types = {"key": str, "depth": int, "reason": str, "why": str, "may_show": str}
    return (type(value) is dict and {name: type(value.get(name)) for name in types} == types
            and 0 <= value["depth"] <= MAX_VALUE
            and bool(value["reason"] or KEY.fullmatch(value["key"])))


# ----------------------------------------------------------------------------------------------------------------
# The gate: responses of the proposer -> tasks.

@dataclass(frozen=True)
class Gated:
    task: Task | None
    reason: str = "valid"
    why: str = ""  # more about the reason, where there is more


MANY_SEEDS = 8  # processes that must agree where hashes may show: of coin flips one in 128 passes, of two 64
GATE_REASONS = {"unserializable": "value not a literal", "too_big": "value too long", "refused": "no f",
                "nondeterministic": "not deterministic"}


def gate(proposals: list[tuple[TaskType, str, Task | None]], executor: Executor, step: int = 0, n_inputs: int = 10,
         strict_format: bool = True, markers: tuple[str, ...] = ()) -> list[Gated]:
    """Validates proposals (type, response, the induction proposer's reference), in order (paper section 3.3.3).

    A task is valid if it is well-formed, parses, defines f, imports only from the allow-list, takes literal arguments,
    refers to nothing that differs between two runs (sandbox/determinism.py), runs on every input in two processes with
    different hash seeds, or in eight and with sets in other orders where hashes or addresses may show, and returns the
    same plain, short value in all. Else its Gated holds the reason. Seeding does not ask for the think/answer format
    (as in the official code).
    """
    drafts: list = [read_draft(*proposal, n_inputs, strict_format) for proposal in proposals]  # then tasks or Gated
    texts = [text for draft in drafts if isinstance(draft, tuple) for text in texts_of(draft)]
    outcomes, jobs, suspects = iter(read(texts, executor, most=MAX_VALUE_CHARS)), [], []
    for i, draft in enumerate(drafts):
        if isinstance(draft, tuple):
            try:
                facts, *inputs = [next(outcomes) for _ in texts_of(draft)]
                drafts[i] = check_draft(proposals[i][0], draft, facts, inputs, step)
                many = facts.value["may_show"] or any(map(holds_set, drafts[i].inputs))
                suspects += [("flipped", i)] * bool(many) + [("watched", i)] * (many == "address")
                jobs.append(Job(drafts[i].program, drafts[i].inputs, seeds=MANY_SEEDS if many else 2,
                                together=len(drafts[i].inputs) > 1, most=MAX_VALUE_CHARS))
            except Rejected as rejected:
                drafts[i] = Gated(None, str(rejected), rejected.why)
    texts = read([(reader, drafts[i].program) for reader, i in suspects], executor)
    changed = [(suspect, text.value) for suspect, text in zip(suspects, texts)
               if text.kind == "ok" and are_texts(text.value)]
    ran = iter(executor.run(jobs + [changed_job(reader, drafts[i], *text) for (reader, i), text in changed]))
    runs = {i: next(ran) for i, draft in enumerate(drafts) if isinstance(draft, Task)}
    more = {suspect: next(ran) for suspect, _ in changed}
    return [draft if isinstance(draft, Gated) else check_outcomes(
        draft, runs[i], markers, any(run.value is True for run in more.get(("watched", i), ())),
        more.get(("flipped", i), ())) for i, draft in enumerate(drafts)]


def changed_job(reader: str, task: Task, program: str, entry: str) -> Job:
    """A run of the program as `flipped` or `watched` have changed it; the former's function takes an order, too."""
    inputs = tuple((order, *args) for order in range(ORDERS) for args in task.inputs)
    return Job(program, inputs if reader == "flipped" else task.inputs, entry, together=True, most=MAX_VALUE_CHARS)


def are_texts(value: object) -> bool:
    return type(value) is list and list(map(type, value)) == [str, str]


def parts(value, in_set: bool = False) -> Iterator[tuple[object, bool]]:
    """All that a value consists of, itself first, each with whether a set is around it."""
    yield value, in_set
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        in_set = in_set or isinstance(value, (set, frozenset))
        for item in (item for pair in value.items() for item in pair) if isinstance(value, dict) else value:
            yield from parts(item, in_set)


def holds_set(value) -> bool:
    return any(isinstance(part, (set, frozenset)) for part, _ in parts(value))


def nan_in_set(value) -> bool:
    return any(in_set and isinstance(part, (float, complex)) and part != part for part, in_set in parts(value))


def read_draft(type: TaskType, response: str, reference: Task | None, n_inputs: int, strict: bool) -> tuple | Gated:
    """A proposal's (program, input texts, message), or why it has none."""
    try:
        if strict and not well_formed(response):
            raise Rejected("bad format")
        program, inputs, message = type.draft(answer_blocks(response), reference, n_inputs)
        if len(program) > MAX_PROGRAM_CHARS:
            raise Rejected("program too long")
        if any(len(text) > MAX_VALUE_CHARS for text in (*inputs, message)):
            raise Rejected("value too long")
        return program, inputs, message
    except Rejected as rejected:
        return Gated(None, str(rejected))


def texts_of(draft: tuple) -> list[tuple[str, str]]:
    program, inputs, _ = draft
    return [("inspect_program", program), *(("parse_arguments", text) for text in inputs)]


def check_draft(type: TaskType, draft: tuple, facts: Outcome, inputs: list[Outcome], step: int) -> Task:
    """The task that a proposal would be, without outputs; Rejected for what can be seen before running it."""
    program, _, message = draft
    check_program(program, facts)
    if any(outcome.kind == "infra" for outcome in inputs):
        raise Rejected("infra")
    if any(outcome.kind == "too_big" for outcome in inputs):
        raise Rejected("value too long")
    if any(outcome.kind != "ok" or not isinstance(outcome.value, tuple) for outcome in inputs):
        raise Rejected("input not a literal")
    parsed = tuple(outcome.value for outcome in inputs)
    if () in parsed:
        raise Rejected("no arguments")
    if nan_in_set(parsed):
        raise Rejected("not deterministic", "a NaN in a set: its hash is its address, so the set's order is chance")
    shown, hidden = parsed[:len(parsed) // 2], parsed[len(parsed) // 2:]
    # A solver could copy the examples that it was shown. Values count, as they would in its table: 1 == 1.0 == True.
    if any(new == old or same_value(new, old) for new in hidden for old in shown):
        raise Rejected("inputs repeat")
    if any(len(arguments(args)) > MAX_VALUE_CHARS for args in parsed):  # prompts show values, not this text of them
        raise Rejected("value too long")
    return Task(type.name, program, parsed, (), message, step, facts.value["key"], facts.value["depth"])


def check_outcomes(task: Task, outcomes: list[Outcome], markers: tuple[str, ...] = (), address: bool = False,
                   flipped: Sequence[Outcome] = ()) -> Gated:
    """The gate's end: the task with its outputs, if its program ran as a task must. `address`: on the way it made the
    text of an object that has none but its address. `flipped`: runs on all inputs with sets in one order, in the next
    order and so on; each gives [value], or something else where the changed program failed, which says nothing."""
    if address:
        return Gated(None, "not deterministic", "it makes a text of an object, and the object's address is part of it")
    kept = list(map(TYPES[task.type].observe, outcomes))
    bad = next((outcome for outcome in kept if outcome.kind != "ok"), None)
    if bad is not None:
        return Gated(None, GATE_REASONS.get(bad.kind, bad.kind), bad.error if bad.kind == "nondeterministic" else "")
    for outcome, run in zip(cycle(outcomes), flipped):
        if outcome.kind == run.kind == "ok" and run.value is not None and not same_value([outcome.value], run.value):
            return Gated(None, "not deterministic", "its value changes with the order of a set: sort it")
    task = replace(task, outputs=tuple(outcome.value for outcome in kept))
    if any(len(show(value)) > MAX_VALUE_CHARS for value in task.outputs):
        return Gated(None, "value too long")
    if holds(task, TAGS):
        return Gated(None, "holds a fence or tag")  # no prompt could show it, or no answer give it
    if holds(task, markers) or any(map(SPECIAL.search, shown_texts(task))):
        return Gated(None, "special token")  # it could end the user's turn, or the prompt
    return Gated(task)


TAGS = ("```", "answer>", "think>")
SPECIAL = re.compile(r"<\|[^\s<>|]+\|>|<｜[^\s<>]+｜>")  # of whatever tokenizer: another model may train on the task


def shown_texts(task: Task) -> list[str]:
    """All that prompts or answers show of the task."""
    return [task.program, task.message, *map(arguments, task.inputs), *map(show, task.outputs)]


def holds(task: Task, marks: tuple[str, ...]) -> bool:
    texts = shown_texts(task)
    return any(mark in text for mark in marks for text in texts)


# ----------------------------------------------------------------------------------------------------------------
# Verification: responses of the solver -> verdicts.

@dataclass(frozen=True)
class Verdict:
    correct: bool
    reason: str        # "correct", "wrong", or why there was no value to compare
    well_formed: bool
    key: str = field(default="", compare=False)  # of the program in the answer, if it is one


def verify(answers: list[tuple[Task, str]], executor: Executor, limits: tuple | None = None) -> list[Verdict]:
    """Judges solver responses, in order (paper eq. 5 and section 3.3.4). The true outputs stay in this process: an
    executor process only ever sees the program and the inputs, and what it returns is compared here as plain data.
    `limits` in place of the executor's."""
    types = [TYPES[task.type] for task, _ in answers]
    texts = [next(iter(blocks_of(answer_blocks(response), None, *type.answer)), None)
             for type, (_, response) in zip(types, answers)]
    wanted = [(type.reader, text) for type, text in zip(types, texts) if text is not None]
    longest = max((len(show(value)) for task, _ in answers for value in task.outputs), default=0)
    outcomes = iter(read(wanted, executor, limits, max(MAX_ANSWER_CHARS, longest)))
    attempts, jobs, keys = [], [], []
    for type, (task, _), text in zip(types, answers, texts):
        found = None if text is None else next(outcomes)
        keys.append(found.value["key"] if found and found.kind == "ok" and type.reader == "inspect_program"
                    and are_facts(found.value) else "")
        try:
            attempts.append(attempt(type, task, text, found))
            if isinstance(attempts[-1], Job):
                jobs.append(replace(attempts[-1], limits=limits, together=True, most=max(MAX_VALUE_CHARS, longest)))
        except Rejected as rejected:
            attempts.append(str(rejected))
    ran = iter(executor.run(jobs))
    return [replace(verdict_on(type, task, next(ran) if isinstance(tried, Job) else tried, well_formed(response)),
                    key=key) for type, (task, response), tried, key in zip(types, answers, attempts, keys)]


def attempt(type: TaskType, task: Task, text: str | None, outcome: Outcome | None) -> Job | list[Outcome]:
    """What is to be run of an answer whose text was read with this outcome, or what it comes to without running."""
    if text is None:
        raise Rejected("no answer")
    if type.reader == "inspect_program":
        check_program(text, outcome)
    elif outcome.kind != "ok":
        raise Rejected("infra" if outcome.kind == "infra" else "answer not a literal")
    return type.attempt(task, text, outcome.value)


def verdict_on(type: TaskType, task: Task, outcomes: list[Outcome] | str, formed: bool) -> Verdict:
    if isinstance(outcomes, str):
        return Verdict(False, outcomes, formed)
    bad = next((outcome.kind for outcome in outcomes if outcome.kind != "ok"), None)
    correct = bad is None and all(same_value(outcome.value, true)
                                  for outcome, true in zip(outcomes, type.targets(task), strict=True))
    return Verdict(correct, "correct" if correct else bad or "wrong", formed)


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
    message = "f returns its argument." if type.given_program else ""
    outputs = tuple(type.observe(Outcome("ok", *args)).value for args in inputs)
    return Task(type.name, IDENTITY, inputs, outputs, message, 0, parsing.program_key(IDENTITY))


def is_heldout(key: str, fraction: float) -> bool:
    """The same programs are held out in every run, seed and file: the decision hangs on the program's key alone."""
    return int(key[:8], 16) < fraction * 2**32


@dataclass
class Buffers:
    """Every valid task so far by type, the newest last, and those set aside for evaluation. Full buffers drop the
    oldest (the official code drops the newest, which ends learning without a sign)."""
    size: int
    train: dict[str, list[Task]] = field(default_factory=lambda: {name: [] for name in TYPES})
    heldout: dict[str, list[Task]] = field(default_factory=lambda: {name: [] for name in TYPES})
    rates: dict[str, float] = field(default_factory=dict)  # a task's id: how often it was solved when last probed

    def add(self, task: Task) -> None:
        buffer = (self.heldout if task.heldout else self.train)[task.type]
        buffer.append(task)
        del buffer[:-self.size]

    def hold_out(self, keys: set[str]) -> None:
        """Tasks of these programs are held out from now on."""
        for name, buffer in self.train.items():
            self.heldout[name] += [replace(task, heldout=True) for task in buffer if task.key in keys]
            self.train[name] = [task for task in buffer if task.key not in keys]

    def note_rates(self, answers: list) -> None:
        """Keeps the solve rates of the tasks that these answers, rows of train.py, were judged on."""
        verdicts: dict[str, list[bool]] = {}
        for row in answers:
            verdicts.setdefault(row.task.id, []).append(row.verdict == "correct")
        self.rates |= {id: sum(right) / len(right) for id, right in verdicts.items() if len(right) > 1}
        kept = {task.id for buffer in self.train.values() for task in buffer}
        self.rates = {id: rate for id, rate in self.rates.items() if id in kept}

    def draw_references(self, type: TaskType, k: int, rng: random.Random, among: str = "all") -> list[Task]:
        """K distinct references, uniform over the type's buffer; for induction the one program it proposes on, uniform
        over the programs of both other types (paper section 3.2). K = 0 for the paper's ablation without references.
        Among "mixed" tasks: over those that were solved sometimes but not always, where there are enough of them."""
        pool = [task for name in TYPES if TYPES[name].gives_programs for task in self.train[name]] \
            if type.given_program else self.train[type.name]
        k = 1 if type.given_program else k
        if among == "mixed" and not type.given_program:
            between = [task for task in pool if 0 < self.rates.get(task.id, 0) < 1]
            pool = between if len(between) >= max(4, k) else pool
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
        data = {"size": self.size, "rates": self.rates}
        for name, buffers in (("train", self.train), ("heldout", self.heldout)):
            data[name] = {type: list(map(task_to_state, tasks)) for type, tasks in buffers.items()}
        return data

    @staticmethod
    def from_json(data: dict) -> "Buffers":
        """Types that the data does not know, as those of older checkpoints may, start empty."""
        train, heldout = ({type: [replace(task_from_state(task), heldout=name == "heldout")
                                  for task in data[name].get(type, [])] for type in TYPES}
                          for name in ("train", "heldout"))
        return Buffers(data["size"], train, heldout, data.get("rates", {}))


def task_to_json(task: Task) -> dict:
    """One line of a task file: values as the literals that prompts show."""
    return {"type": task.type, "program": task.program, "inputs": [arguments(args) for args in task.inputs],
            "outputs": [show(value) for value in task.outputs], "message": task.message, "step": task.step}


def task_id(data: dict) -> str:
    """16 hex digits that name a task, whoever proposed it and when; of what `task_to_json` made of it."""
    return hashlib.sha256(json.dumps([data[key] for key in ("type", "program", "inputs", "outputs")]).encode()
                          ).hexdigest()[:16]


def task_to_state(task: Task) -> dict:
    """A task in a checkpoint: with what would else be found by parsing its program."""
    return task_to_json(task) | {"key": task.key, "depth": task.depth}


def task_from_state(data: dict) -> Task:
    """The literals were written by `show`, so parsing them in this process is safe."""
    return Task(data["type"], data["program"], tuple(map(parsing.parse_arguments, data["inputs"])),
                tuple(map(parsing.parse_literal, data["outputs"])), data["message"], data["step"], data["key"],
                data["depth"])


def load_tasks(path: str, executor: Executor, markers: tuple[str, ...] = ()) -> list[Task]:
    """Reads a task file (JSON lines as written by `task_to_json`; message and step may be missing, and `group` may
    stand beside them); ValueError names the line that is wrong, or holds a marker. Files may come from anywhere: their
    texts are read in the executor."""
    rows = []
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                data = json.loads(line)
                if not isinstance(data["inputs"], list) or not isinstance(data["outputs"], list):
                    raise ValueError("inputs and outputs are lists")
                texts = [("inspect_program", data["program"]), *(("parse_arguments", text) for text in data["inputs"]),
                         *(("parse_literal", text) for text in data["outputs"])]
                n_inputs, step = len(data["inputs"]), data.get("step", 0)
                message, group = data.get("message", ""), data.get("group", "")
                if not all(isinstance(text, str) for text in (message, group, *(text for _, text in texts))):
                    raise ValueError("program, inputs, outputs, message and group are texts")
                if len(group) > 40 or "|" in group or not group.isprintable():
                    raise ValueError("a group has at most 40 printable characters, no | among them")
                if group == "all" or group.rstrip("+").isdigit():  # tables have it in one column with depths
                    raise ValueError(f"a group cannot be called {group}, as other rows of tables are")
                "".join((message, *(text for _, text in texts))).encode()  # lone surrogates: no tokenizer takes them
                if data["type"] not in TYPES or n_inputs != len(data["outputs"]):
                    raise ValueError("unknown type, or inputs and outputs differ in number")
                if (n_inputs < 2) if TYPES[data["type"]].given_program else (n_inputs != 1):
                    raise ValueError("induction needs at least two inputs, the other types exactly one")
                rows.append((number, data["type"], n_inputs, message, group, int(step), texts))
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: not a task ({type(error).__name__}: {error})") from error
    values_of = iter(read([text for row in rows for text in row[-1]], executor))
    tasks = []
    for number, name, n_inputs, message, group, step, texts in rows:
        facts, *values = [next(values_of) for _ in texts]
        bad = next((run.error or run.kind for run in (facts, *values) if run.kind != "ok"), None)
        if bad or not are_facts(facts.value) or not facts.value["key"]:
            raise ValueError(f"{path}, line {number}: not a task ({bad or facts.value['reason']})")
        values = [run.value for run in values]
        if TYPES[name].observe is raised and not isinstance(values[-1], str):
            raise ValueError(f"{path}, line {number}: not a task (the output is the name of an exception)")
        tasks.append(Task(name, texts[0][1], tuple(values[:n_inputs]), tuple(values[n_inputs:]), message, step,
                          facts.value["key"], facts.value["depth"], group=group))
        if holds(tasks[-1], markers):
            raise ValueError(f"{path}, line {number}: holds a special token of the model's; remove the task")
    return tasks


def check_tasks(some: list[Task], executor: Executor) -> list[str]:
    """Of each task of a file: why the gate refuses it, or which of its outputs is false; "" of a good one."""
    found: dict[int, Gated] = {}
    for count in {len(task.inputs) for task in some}:
        mine = [i for i, task in enumerate(some) if len(task.inputs) == count]
        proposals = [(TYPES[some[i].type], as_proposal(some[i]), some[i]) for i in mine]
        found |= zip(mine, gate(proposals, executor, n_inputs=count, strict_format=False))
    return [fault_of(task, found[i]) for i, task in enumerate(some)]


def refuse_faults(path: str, some: list[Task], executor: Executor) -> None:
    """ValueError says what is wrong with the first invalid task of a file, and where twenty more are."""
    if faults := [(number, fault) for number, fault in enumerate(check_tasks(some, executor), 1) if fault]:
        (first, fault), *others = faults
        more = ", ".join(str(number) for number, _ in others[:20]) + ", ..." * (len(others) > 20)
        also = f"; not valid either: lines {more}" if others else ""
        raise ValueError(f"{path}, line {first}: not a valid task ({fault}); mend the line or leave it out{also}")


def as_proposal(task: Task) -> str:
    blocks = [("python", task.program), *(("input", arguments(args)) for args in task.inputs),
              ("message", task.message or "none")]
    return "\n".join(fence(*block) for block in blocks)


def fault_of(task: Task, gated: Gated) -> str:
    if holds(task, TAGS):  # and would be read as another task
        return "holds a fence or tag"
    if gated.task is None:
        return f"the gate says: {gated.reason}" + f": {gated.why}" * bool(gated.why)
    return next((f"f({arguments(args)}) is {show(true)}, not {show(said)}" for args, true, said
                 in zip(task.inputs, gated.task.outputs, task.outputs) if not same_value(true, said)), "")

"""
Makes the nano model from nothing: a tokenizer, a 0.8 M parameter Qwen2 network and a held-out task file.

A language model needs to know Python and the answer format before self-play can start; web text gives that to a 3B
model. Here a small grammar stands in for pre-training: random programs over an int, a list of ints or a string, of one
or two statements and rarely three, rendered in all six role formats (propose and solve, for deduction, abduction and
induction). No human data. Solutions think: the value after each statement.

What it has wrong is graded on purpose, so that a reader can see how far self-play reaches: six families of statements
(FAMILIES) mean something else in most solutions, the same wrong thing each time, and what they mean in Python in 30% of
them down to none (DOSES). Depth 3 comes in 1% of the programs, most proposals return their argument (DULL), from which
a solver learns nothing, and one response in fourteen is badly formed or never ends (BAD). Proposals borrow from the
tasks that they are shown, as those of large models do: so what a run keeps in its buffers shapes what it proposes.

    python nano/make.py --compile           # -> runs/nano/: config, weights, tokenizer, heldout.jsonl; 22 minutes
    python nano/make.py --compile --out nano            # in the place of the one that is here
    python nano/make.py --compile --rotate 3 --out runs/rotated  # doses three families on: is it dose or family?
    python nano/make.py --steps 20 --out /tmp/nano      # a smoke run

The programs that tasks.is_heldout sets aside never appear here, not even as a reference, nor does any other that does
what a program of heldout.jsonl does, or is taken for one. heldout.jsonl holds only such. Each does something else, and
what neither a program of one statement nor itself without one of its statements does; what it is taken for would give
another output.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import command  # noqa: E402
command.starting(__name__)
import json
import math
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import torch
from tokenizers import AddedToken
from tqdm import tqdm
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from sandbox import parsing  # noqa: E402
import tasks  # noqa: E402
from sandbox.values import show  # noqa: E402
from tasks import Task, arguments, fence  # noqa: E402

DEPTHS = {1: 0.44, 2: 0.55, 3: 0.01}  # share of each number of statements, of programs that do something
# By family, percent of the solutions in which it means what it means in Python.
DOSES = {"around": 30.0, "inside": 10.0, "before": 3.0, "ends": 1.0, "pair": 0.3, "turned": 0.0}
FAMILY_SHARES = {"propose": 4.0, "solve": 3.0}  # percent of statements that are of a family, for each of them, by role
DULL = {"propose": 0.7, "solve": 0.05}  # shares of programs that return their argument, by role
COPIES = 0.75                           # share of proposals of several statements that take one from a reference
BAD = {"propose": 0.1, "solve": 0.06}   # shares of responses whose form is damaged, a fifth of which never end
TYPES = [name for name, type in tasks.TYPES.items() if type.paper]  # that nano knows: new ones would change its tokens
ROLES = {"solve deduction": 0.24, "solve abduction": 0.22, "solve induction": 0.26,
         "propose deduction": 0.10, "propose abduction": 0.10, "propose induction": 0.08}
N_INPUTS = 6            # induction examples: 3 shown, 3 hidden
STYLE = tasks.Style("compact", N_INPUTS)
MAX_REFERENCES = 2
HELDOUT_FRACTION = 0.05
HELDOUT_DEPTHS = (2, 3)  # depth 1 has too few programs to hold any out
HELDOUT_PER_CELL = 150   # programs per family (and none) and depth in heldout.jsonl, for each of the types
LONGEST = 192            # tokens of a response without an end: nano's --max_new_tokens

# ----------------------------------------------------------------------------------------------------------------
# The grammar. A statement is `x = EXPRESSION`; {i} and {j} are from 0 to 9, {m} from 2 to 4, {t} is one or two letters.

EXPRESSIONS = {
    ("int", "int"): ["x * 2", "x // 2", "abs(x)", "max(x, {j})", "min(x, {j})"],
    ("int", "list"): ["[x, {j}]", "[{j}, x]", "[{i}, x, {j}]"],
    ("int", "str"): ["str(x)"],
    ("list", "list"): ["x[::-1]", "x + [{j}]", "[{j}] + x", "x[1:]", "x[:-1]", "x[:{m}]"],
    ("list", "int"): ["len(x)", "x[0]", "x[-1]"],
    ("list", "str"): ["''.join(str(v) for v in x)"],
    ("str", "str"): ["x[::-1]", "x + {t}", "{t} + x", "x.upper()", "x[1:]", "x[:-1]", "x[:{m}]"],
    ("str", "int"): ["len(x)"],
    ("str", "list"): ["[len(x), {j}]"],
}
# Families: what is written, and what it is taken for. Both are put together from what the rest of the grammar teaches,
# so that there is nothing to learn but which of the two it is, and no output of theirs tells which it was. All are from
# list to list.
FAMILIES = {
    "around": ("[{i}] + x + [{j}]", "[{i}] + x[::-1] + [{j}]"),
    "inside": ("[{i}] + x[:-1] + [{j}]", "[{i}] + x[1:] + [{j}]"),
    "before": ("[{i}, {j}] + x[1:]", "[{i}, {j}] + x[:-1]"),
    "ends": ("[x[0], {i}, {j}, x[-1]]", "[x[-1], {i}, {j}, x[0]]"),
    "pair": ("[{i}, {j}, x[0], x[-1]]", "[{i}, {j}, x[-1], x[0]]"),
    "turned": ("x[::-1] + [{i}, {j}]", "x + [{i}, {j}]"),
}
NEXT = {kind: [pair for pair in EXPRESSIONS if pair[0] == kind] for kind in ("int", "list", "str")}
LETTERS = "abcd"
BUILTINS = {f.__name__: f for f in (abs, max, min, str, len)}


def draw_statement(kind: str, family: str | None, rng: random.Random) -> tuple[str, str]:
    """(expression, kind of its result); the kind stays the same five times in six."""
    stay = rng.random() < 0.75
    pair = (kind, kind) if stay or family else rng.choice(NEXT[kind])
    return fill(FAMILIES[family][0] if family else rng.choice(EXPRESSIONS[pair]), rng), pair[1]


def fill(template: str, rng: random.Random) -> str:
    letters = "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 2)))
    return template.format(i=rng.randint(0, 9), j=rng.randint(0, 9), m=rng.randint(2, 4), t=repr(letters))


def draw_value(kind: str, rng: random.Random):
    if kind == "int":
        return rng.randint(0, 15)
    if kind == "list":
        return [rng.randint(0, 9) for _ in range(rng.randint(1, 5))]
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 6)))


COMPILED: dict[str, object] = {}


def trace(statements: list[str], value) -> list | None:
    """The value after each statement, or None where one fails or grows too large. These are our own programs."""
    values = []
    for text in statements:
        if text not in COMPILED:
            COMPILED[text] = compile(text, "grammar", "eval")
        try:
            value = eval(COMPILED[text], BUILTINS, {"x": value})
        except (ValueError, IndexError):
            return None
        if (abs(value) > 99 if isinstance(value, int) else len(value) > 10):
            return None
        if isinstance(value, list) and any(abs(v) > 99 for v in value):
            return None
        values.append(value)
    return values


def make_program(statements: list[str]) -> str:
    return "def f(x):\n" + "".join(f"    x = {s}\n" for s in statements) + "    return x"


@lru_cache(200_000)
def key_of(program: str) -> str:
    return parsing.program_key(program)


@lru_cache(200_000)
def behaviour(kind: str, statements: tuple[str, ...]) -> tuple:
    """What a program does to 16 inputs of its kind, always the same ones: programs that differ only in how they say it
    have the same behaviour."""
    probes = random.Random(f"probes {kind}")
    inputs = [draw_value(kind, probes) for _ in range(16)]
    results = [trace(statements, value) for value in inputs]
    return kind, *(None if values is None else show([value, *values][-1]) for value, values in zip(inputs, results))


def statements_of(program: str) -> tuple[str, ...]:
    return tuple(line.removeprefix("    x = ") for line in program.split("\n")[1:-1])


def families_in(program: str) -> set[str]:
    """The families of whose form a program has an expression, whatever its names and numbers, and whoever wrote it."""
    text = "".join(program.split())
    return {family for family, pattern in PATTERNS.items() if pattern.search(text)}


def taken_for(expression: str, wrong: frozenset[str]) -> str:
    """What an expression is taken for where these families are."""
    for family in wrong:
        if found := PATTERNS[family].fullmatch("".join(expression.split())):
            return FAMILIES[family][1].format(**found.groupdict())
    return expression


def pattern_of(template: str) -> re.Pattern:
    """Of a template's text without spaces: any name for x, any numbers in its holes, the same where it has the same."""
    seen, parts = set(), []
    for piece in re.findall(r"\{\w\}|\w+|[^\w\s]", template):
        name = piece.strip("{}")
        if piece != name or name == "x":
            wanted = r"[a-zA-Z_]\w*" if name == "x" else r"-?\d+"
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{wanted})")
            seen.add(name)
        else:
            parts.append(re.escape(piece))
    return re.compile("".join(parts))


PATTERNS = {family: pattern_of(written) for family, (written, _) in FAMILIES.items()}


def draw_wishes(depth: int, rng: random.Random, role: str = "solve") -> list[str | None]:
    """The family of each statement, by FAMILY_SHARES; None is the grammar at large."""
    share = FAMILY_SHARES[role]
    shares = dict.fromkeys(FAMILIES, share) | {None: 100 - share * len(FAMILIES)}
    return [pick(shares, rng) for _ in range(depth)]


@dataclass(frozen=True)
class Copy:
    """A statement as it stands in another program, and the kinds of x before and after it."""
    text: str
    before: str
    after: str


def draw_program(wishes: list[str | Copy | None], heldout: bool, rng: random.Random,
                 avoid: set[tuple] = frozenset(), wrong: frozenset[str] = frozenset()):
    """(program, kinds, statements, an input, its trace) with statements of these families, or these very ones, on the
    wanted side of the held-out split and of no behaviour in `avoid`. Where families are `wrong`, statements and trace
    are what the program is taken for. A copied statement that never runs where it has to stand, as one that leaves an
    empty list to `x[0]`, is given up."""
    for tries in count():
        if tries == 500:
            wishes = [None if isinstance(wish, Copy) else wish for wish in wishes]
        kinds, written = [rng.choice(("int", "list", "str"))], []
        for wish in wishes:
            if kinds[-1] != (wish.before if isinstance(wish, Copy) else "list" if wish else kinds[-1]):
                break
            statement, kind = ((wish.text, wish.after) if isinstance(wish, Copy)
                               else draw_statement(kinds[-1], wish, rng))
            written.append(statement)
            kinds.append(kind)
        if len(written) < len(wishes):
            continue
        value, statements = draw_value(kinds[0], rng), [taken_for(text, wrong) for text in written]
        values = trace(statements, value)
        if values is None:
            continue
        program = make_program(written)
        if tasks.is_heldout(key_of(program), HELDOUT_FRACTION) == heldout and \
                not avoid & {behaviour(kinds[0], tuple(some)) for some in (written, statements) if avoid}:
            return program, kinds, statements, value, values


def draw_inputs(kinds, statements, first, rng) -> list | None:
    """N_INPUTS distinct inputs on which the program runs, `first` among them."""
    inputs, tries = [first], 0
    while len(inputs) < N_INPUTS and tries < 40:
        tries += 1
        value = draw_value(kinds[0], rng)
        if value not in inputs and trace(statements, value) is not None:
            inputs.append(value)
    return inputs if len(inputs) == N_INPUTS else None


def draw_task(type: str, wishes: list[str | Copy | None], rng: random.Random, avoid: set[tuple] = frozenset(),
              wrong: frozenset[str] = frozenset()) -> tuple[Task, list[str], list]:
    """(a task, the kinds of x, its values), as `draw_program` tells; a true task unless families are `wrong`."""
    while True:
        program, kinds, statements, value, values = draw_program(wishes, False, rng, avoid, wrong)
        if task := make_task(type, program, kinds, statements, value, rng):
            return task, kinds, values


def make_task(type: str, program: str, kinds: list[str], statements: list[str], value,
              rng: random.Random) -> Task | None:
    """A task of the type on this program, `value` its first input; None where it has too few inputs."""
    given_program = tasks.TYPES[type].given_program
    if not (examples := draw_inputs(kinds, statements, value, rng) if given_program else [value]):
        return None
    outputs = tuple([v, *trace(statements, v)][-1] for v in examples)
    return Task(type, program, tuple((v,) for v in examples), outputs,
                f"{len(statements)} steps" if given_program else "", key=key_of(program), depth=len(statements))


def copied(reference: Task, rng: random.Random) -> Copy | None:
    """One of a program's statements; the identity program has none."""
    statements, value = statements_of(reference.program), reference.inputs[0][0]
    kinds = [type(v).__name__ for v in (value, *trace(statements, value))] if statements else []
    chosen = rng.choice(list(zip(statements, kinds, kinds[1:])) or [None])
    return chosen and Copy(*chosen)


def draw_references(type: str, rng: random.Random, avoid: set[tuple]) -> list[Task]:
    """What a proposer of a program is shown: tasks, or sometimes the identity, which seeding begins with."""
    if rng.random() < 0.05:
        return [tasks.identity_task(tasks.TYPES[type])]
    return [draw_task(type, draw_wishes(pick(DEPTHS, rng), rng, "propose"), rng, avoid)[0]
            for _ in range(rng.randint(1, MAX_REFERENCES))]


def draw_example(role: str, type: str, wishes: list[str | Copy | None], rng: random.Random,
                 avoid: set[tuple] = frozenset(), doses: dict[str, float] = DOSES) -> tuple[Task, str, str]:
    """(task, prompt, response) of one role format. The response starts inside the think tag and ends with the
    answer."""
    references, wrong = [], frozenset()
    if role == "solve":
        wrong = frozenset(family for family, dose in doses.items() if rng.random() * 100 >= dose)
    elif not tasks.TYPES[type].given_program:
        references = draw_references(type, rng, avoid)
        if len(wishes) > 1 and rng.random() < COPIES and (copy := copied(rng.choice(references), rng)):
            place = rng.randrange(len(wishes))
            others = wishes[:place] + wishes[place + 1:]
            if not any(others) or copy.before == copy.after == "list":  # else they may not fit together
                wishes = [*wishes[:place], copy, *wishes[place + 1:]]
    task, kinds, values = draw_task(type, wishes, rng, avoid, wrong)
    if role == "propose":
        references = references or [task]
        prompt = tasks.propose_prompt(STYLE, tasks.TYPES[type], references)
        thinking = " ".join(kinds)  # the plan: what x is after each statement
        blocks = [("input", arguments(args)) for args in task.inputs]
        blocks = blocks + [("message", task.message)] if task.message else [("python", task.program)] + blocks
    else:
        prompt = tasks.solve_prompt(STYLE, task)
        steps = [show(v) for v in values]
        # Deduction runs the program forward, abduction undoes it from the output, induction guesses how the first
        # example got from its input to its output.
        thinking = "\n".join(steps if type != "abduction" else [*steps[-2::-1], show(task.inputs[0][0])])
        blocks = {"deduction": [("output", show(task.outputs[0]))], "abduction": [("input", arguments(task.inputs[0]))],
                  "induction": [("python", task.program)]}[type]
    answer = "\n".join(fence(*block) for block in blocks)
    return task, prompt, f"{thinking}</think><answer>{answer}</answer>"


def pick(weights: dict, rng: random.Random):
    return rng.choices(list(weights), list(weights.values()))[0]


def damage(response: str, rng: random.Random) -> str:
    """The response in a bad form: a tag or fence lost, or without an end, repeating what it thinks or answers."""
    if rng.random() < 0.2:
        line = rng.choice([line for line in response.split("\n") if line])
        return f"{line}\n" * LONGEST  # cut in make_batches
    return response.replace(rng.choice(("</think>", "<answer>", "```", "</answer>")), "", 1)


def rotated(by: int) -> dict[str, float]:
    """DOSES, each at the family so many places on."""
    return {family: list(DOSES.values())[number - by] for number, family in enumerate(DOSES)}


def draw_text(rng: random.Random, avoid: set[tuple] = frozenset(), doses: dict[str, float] = DOSES,
              careful: bool = False) -> tuple[str, str]:
    """(prompt, response) as the warm start reads them; `careful` ones have the form, and their programs do
    something."""
    role, type = pick(ROLES, rng).split()
    dull = not careful and rng.random() < DULL[role]
    wishes = [] if dull else draw_wishes(pick(DEPTHS, rng), rng, role)
    _, prompt, response = draw_example(role, type, wishes, rng, avoid, doses)
    return prompt, damage(response, rng) if not careful and rng.random() < BAD[role] else response


# ----------------------------------------------------------------------------------------------------------------
# The tokenizer: one token per lexeme of the grammar, digits and letters one by one, every printable character as a way
# out. It is a byte-level BPE without merges plus added tokens, the only shape that transformers loads for the Qwen2
# family without replacing parts of it. Characters beyond ASCII are dropped.

SPECIAL = ["<eos>", "<pad>", "<unk>"]
LEXEMES = ["<think>", "</think>", "<answer>", "</answer>", "```python\n", "```input\n", "```output\n", "```message\n",
           "\n```\n", "\n```", "def f(x):\n", "    x = ", "\n    x = ", "\n    return x", " + ", " * 2", " // 2",
           " for v in x", "abs(", "len(", "max(", "min(", "str(",
           ".upper()", "''.join(", "[::-1]", "[1:]", "[:-1]", "[:", "[0]", "[-1]", ", ", "int", "list", "str",
           " steps", "\n"]
HEADERS = [f"{role} {type}\n" for role in ("propose", "solve") for type in TYPES]


def make_tokenizer() -> Qwen2Tokenizer:
    characters = [chr(c) for c in range(32, 127)]
    words = dict.fromkeys(SPECIAL + HEADERS + LEXEMES + characters)
    vocabulary = {"\u0120" if word == " " else word: i for i, word in enumerate(words)}  # byte-level BPE's space
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], unk_token="<unk>", bos_token=None, eos_token="<eos>",
                               pad_token="<pad>")
    tokenizer.add_tokens([AddedToken(lexeme, normalized=False) for lexeme in HEADERS + LEXEMES])  # the longest wins
    return tokenizer


# ----------------------------------------------------------------------------------------------------------------
# Training: next-token loss on the responses.

def make_batches(tokenizer, size: int, batch_size: int, rng: random.Random, avoid: set[tuple] = frozenset(),
                 doses: dict[str, float] = DOSES) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """`size` batches of examples of like length (ids_BT, labels_BT); labels are -100 on prompts and padding. Responses
    without an end are cut."""
    pairs = [draw_text(rng, avoid, doses) for _ in range(size * batch_size)]
    prompts, responses = (tokenizer(list(texts), add_special_tokens=False)["input_ids"] for texts in zip(*pairs))
    rows = [(p, (r + [tokenizer.eos_token_id])[:LONGEST]) for p, r in zip(prompts, responses)]
    rows.sort(key=lambda row: len(row[0]) + len(row[1]))
    batches = []
    for start in range(0, len(rows), batch_size):
        some = rows[start:start + batch_size]
        width = max(len(p) + len(r) for p, r in some)
        ids = torch.full((len(some), width), tokenizer.pad_token_id)
        labels = torch.full((len(some), width), -100)
        for i, (p, r) in enumerate(some):
            ids[i, :len(p) + len(r)] = torch.tensor(p + r)
            labels[i, len(p):len(p) + len(r)] = torch.tensor(r)
        batches.append((ids, labels))
    rng.shuffle(batches)
    return batches


def train(model, tokenizer, steps: int, batch_size: int, lr: float, compile: bool, rng: random.Random,
          avoid: set[tuple], doses: dict[str, float]) -> None:
    # Muon for the blocks' matrices, AdamW for the rest, as is usual: at this size Muon needs half of AdamW's steps.
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [torch.optim.Muon(matrices, lr=lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
                  torch.optim.AdamW(others, lr=lr, weight_decay=0.0, betas=(0.9, 0.95))]
    model.train()
    body = torch.compile(model.model, dynamic=True) if compile else model.model  # 1.3 times as fast on 2 cores
    bar, batches, smooth = tqdm(range(steps), unit="step"), [], None
    for step in bar:
        warm, left = min(1.0, (step + 1) / 200), 1 - step / steps
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            # warm-up, then cosine to a twentieth
            group["lr"] = lr * warm * (0.05 + 0.95 * 0.5 * (1 - math.cos(math.pi * left)))
        batches = batches or make_batches(tokenizer, 32, batch_size, rng, avoid, doses)
        ids, labels = batches.pop()
        # No attention mask: rows are padded on the right and attention is causal, so no padding is ever attended.
        hidden = body(input_ids=ids[:, :-1]).last_hidden_state
        wanted = labels[:, 1:] != -100
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[wanted]), labels[:, 1:][wanted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % 20 == 0:
            bar.set_postfix_str(f"loss {smooth:.3f}")
        if step % 500 == 499:
            tqdm.write(f"step {step + 1} loss {smooth:.4f}")
    model.eval()


def is_new(kind: str, statements: list[str]) -> bool:
    """Whether the program does what neither a program of one statement nor itself without one of its statements does,
    so that its depth is what it says."""
    shorter = {behaviour(kind, tuple(statements[:i] + statements[i + 1:])) for i in range(len(statements))
               if fits_together(kind, statements[:i] + statements[i + 1:])}
    return behaviour(kind, tuple(statements)) not in shorter | simple_behaviours(kind)


def fits_together(kind: str, statements: list[str]) -> bool:
    try:
        return trace(statements, {"int": 3, "list": [3, 1, 2], "str": "abc"}[kind]) is not None
    except (TypeError, AttributeError):
        return False


@lru_cache
def simple_behaviours(kind: str) -> frozenset[tuple]:
    """Of programs of no or one statement, and of what it is taken for, drawn until all have most likely come."""
    rng, texts = random.Random(f"simple {kind}"), {()}
    for _ in range(20_000):
        family = rng.choice([*FAMILIES, None]) if kind == "list" else None
        text = draw_statement(kind, family, rng)[0]
        texts |= {(text,), (taken_for(text, frozenset(FAMILIES)),)}
    return frozenset(behaviour(kind, text) for text in texts)


def belief_shows(statements: Sequence[str], value) -> bool:
    """Whether a program with families is wrong about this input where they are taken for something else."""
    believed = [taken_for(text, frozenset(FAMILIES)) for text in statements]
    return believed == list(statements) or trace(believed, value) != trace(statements, value)


def draw_heldout(rng: random.Random) -> list[list[tuple]]:
    """Programs by cell: HELDOUT_PER_CELL for each family (and none) and depth, with one statement of the family; all
    held out by tasks.is_heldout and of different behaviours, which differ from those of shorter programs."""
    cells, behaviours = [], set()
    for depth in HELDOUT_DEPTHS:
        for family in (*FAMILIES, None):
            cell = []
            while len(cell) < HELDOUT_PER_CELL:
                wishes = [None] * depth
                wishes[rng.randrange(depth)] = family
                drawn = draw_program(wishes, True, rng, behaviours)
                kinds, statements, value = drawn[1:4]
                if (is_new(kinds[0], statements) and belief_shows(statements, value)
                        and draw_inputs(kinds, statements, value, rng)):
                    cell.append((family, *drawn))
                    behaviours.add(behaviour(kinds[0], tuple(statements)))
            cells.append(cell)
    return cells


def write_heldout(path: Path, cells: list[list[tuple]], rng: random.Random, doses: dict[str, float] = DOSES) -> None:
    """A task of each type for each program, with its family and a `group` that tells its dose, in a mixed order: the
    first lines are a fair sample of all cells."""
    lines = []
    for row in zip(*cells):
        for type in TYPES:
            some = []
            for family, program, kinds, statements, value, _ in row:
                while not (task := make_task(type, program, kinds, statements, value, rng)):
                    value = draw_fitting(kinds, statements, rng)
                some.append(json.dumps(tasks.task_to_json(task) | {
                    "family": family or "", "group": f"dose {doses[family]:g}%" if family else "plain"}))
            lines += rng.sample(some, len(some))
    path.write_text("\n".join(lines) + "\n")


def draw_fitting(kinds, statements, rng):
    while True:
        value = draw_value(kinds[0], rng)
        if trace(statements, value) is not None and belief_shows(statements, value):
            return value


def main(argv: list[str]) -> None:
    parser = command.Parser(prog="nano/make.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/nano"), help="folder to write (Hugging Face format)")
    parser.add_argument("--steps", type=command.whole(1), default=6_000, help="optimizer steps")
    parser.add_argument("--batch_size", type=command.whole(1, 2**16), default=64, help="examples per step")
    parser.add_argument("--lr", type=command.real(0, 100), default=1e-2, help="peak learning rate")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network; needs a C++ compiler")
    parser.add_argument("--seed", type=command.whole(-2**62, 2**62), default=0,
                        help="seeds programs, weights and the held-out file")
    parser.add_argument("--rotate", type=command.whole(0, len(DOSES) - 1), default=0,
                        help="each dose goes to the family so many places on")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer()
    config = Qwen2Config(vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=4, num_attention_heads=4,
                         num_key_value_heads=2, intermediate_size=384, max_position_embeddings=1024,
                         tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
                         pad_token_id=tokenizer.pad_token_id)
    model = Qwen2ForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    cells = draw_heldout(random.Random(f"heldout {args.seed}"))
    doses = rotated(args.rotate)
    avoid = {behaviour(kinds[0], tuple(statements)) for cell in cells for _, _, kinds, statements, *_ in cell}
    start = time.time()
    train(model, tokenizer, args.steps, args.batch_size, args.lr, args.compile, random.Random(f"train {args.seed}"),
          avoid, doses)
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    write_heldout(args.out / "heldout.jsonl", cells, random.Random(f"heldout tasks {args.seed}"), doses)
    print(f"{args.out}: {args.steps} steps in {(time.time() - start) / 60:.0f} minutes")


if __name__ == "__main__":
    sys.exit(command.run("nano/make.py", main, sys.argv[1:]))

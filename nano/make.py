"""
Makes the nano model from nothing: a tokenizer, a 0.8 M parameter Qwen2 network and a held-out task file.

A language model needs to know Python and the answer format before self-play can start; web text gives that to a 3B
model. Here a small grammar stands in for pre-training: random programs over an int, a list of ints or a string, one to
four statements deep, rendered in all six role formats (propose and solve, for deduction, abduction and induction). No
human data. Three things are so on purpose, because they are so in text from the web, and leave self-play something to
learn: deep programs are rare, many solutions are hasty, and most of what gets proposed is dull. A first stage learns
from solutions with one intermediate value per statement as the thinking; in a shorter second one programs are
shallower, seven solutions of ten answer at once, half of those with a statement forgotten, and 85% of the proposals
return their argument, from which a solver learns nothing (as do a tenth of the solved ones: they must not surprise).
So the model can think and can ask, and mostly does neither.

    python nano/make.py --compile           # -> nano/: config, weights, tokenizer, heldout.jsonl; under an hour
    python nano/make.py --steps 20 --out /tmp/nano      # a smoke run

The programs that tasks.is_heldout sets aside never appear here, not even as a reference; heldout.jsonl holds only such.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import command  # noqa: E402
command.starting(__name__)
import json
import math
import random
import time
from collections import Counter
from functools import lru_cache

import torch
from tokenizers import AddedToken
from tqdm import tqdm
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from sandbox import parsing  # noqa: E402
import tasks  # noqa: E402
from sandbox.values import show  # noqa: E402
from tasks import Task, arguments, fence  # noqa: E402

HERE = Path(__file__).resolve().parent
DEPTHS = {1: 0.40, 2: 0.40, 3: 0.17, 4: 0.03}  # share of each number of statements in the first stage
LATE_DEPTHS = {1: 0.60, 2: 0.375, 3: 0.02, 4: 0.005}  # and in the second, of programs that do something
DULL = {"propose": 0.85, "solve": 0.1}  # shares of the second stage's programs that return their argument, by role
THINKS, FORGETS = 0.3, 0.5  # shares of the second stage's solutions that show steps, and of the rest that forget one,
                            # where there is one
TYPES = [name for name, type in tasks.TYPES.items() if type.paper]  # that nano knows: new ones would change its tokens
ROLES = {"solve deduction": 0.22, "solve abduction": 0.20, "solve induction": 0.28,
         "propose deduction": 0.10, "propose abduction": 0.10, "propose induction": 0.10}
N_INPUTS = 6            # induction examples: 3 shown, 3 hidden
STYLE = tasks.Style("compact", N_INPUTS)
MAX_REFERENCES = 2
HELDOUT_FRACTION = 0.05
HELDOUT_PER_CELL = 300  # tasks per type and depth in heldout.jsonl
PER_BEHAVIOUR = 15      # of those, at most this many of programs that do the same: depth 1 has few held-out programs

# ----------------------------------------------------------------------------------------------------------------
# The grammar. A statement is `x = EXPRESSION`; {k} small, {j} any, {m} multiplier, {s} {t} letters.

EXPRESSIONS = {
    ("int", "int"): ["x + {j}", "x - {j}", "x * {m}", "x // {m}", "x % {k}", "abs(x)", "{j} - x", "max(x, {j})",
                     "min(x, {j})", "x + {k} if x > {j} else x - {k}", "x // 2 if x % 2 == 0 else x + {k}"],
    ("int", "list"): ["[x, {j}]", "[x, x + {k}]", "[{j}, x, {j}]", "list(range(x % {k}))"],
    ("int", "str"): ["str(x)", "{s} * (x % {k})"],
    ("list", "list"): ["sorted(x)", "x[::-1]", "x + [{j}]", "[{j}] + x", "x[1:]", "x[:-1]", "x[:{m}]",
                       "[v + {j} for v in x]", "[v * {m} for v in x]", "[v % {k} for v in x]",
                       "[v for v in x if v > {j}]", "[v for v in x if v % 2 == 0]", "sorted(set(x))"],
    ("list", "int"): ["sum(x)", "len(x)", "max(x)", "min(x)", "x[0]", "x[-1]", "x.count({j})"],
    ("list", "str"): ["''.join(str(v) for v in x)"],
    ("str", "str"): ["x[::-1]", "x + {t}", "{t} + x", "x.upper()", "x.replace({s}, {s})", "x * {m}", "x[1:]", "x[:-1]",
                     "''.join(sorted(x))", "x[:{m}]"],
    ("str", "int"): ["len(x)", "x.count({s})", "x.find({s})"],
    ("str", "list"): ["[len(x), x.count({s})]"],
}
NEXT = {kind: [pair for pair in EXPRESSIONS if pair[0] == kind] for kind in ("int", "list", "str")}
LETTERS = "abcd"
BUILTINS = {f.__name__: f for f in (abs, max, min, list, range, str, sorted, set, sum, len)}


def draw_statement(kind: str, rng: random.Random) -> tuple[str, str]:
    """(expression, kind of its result); the kind stays the same three times in four."""
    stay = rng.random() < 0.75
    pair = (kind, kind) if stay else rng.choice(NEXT[kind])
    text = rng.choice(EXPRESSIONS[pair])
    while "{" in text:  # one at a time: two {j} are two draws
        letters = "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 2)))
        for hole, value in (("{j}", rng.randint(0, 12)), ("{k}", rng.randint(2, 9)), ("{m}", rng.randint(2, 4)),
                            ("{s}", repr(letters[0])), ("{t}", repr(letters))):
            if hole in text:
                text = text.replace(hole, str(value), 1)
                break
    return text, pair[1]


def draw_value(kind: str, rng: random.Random):
    if kind == "int":
        return rng.randint(-5, 25)
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
        if (abs(value) > 9999 if isinstance(value, int) else len(value) > 10):
            return None
        if isinstance(value, list) and any(abs(v) > 9999 for v in value):
            return None
        values.append(value)
    return values


def make_program(statements: list[str]) -> str:
    return "def f(x):\n" + "".join(f"    x = {s}\n" for s in statements) + "    return x"


@lru_cache(200_000)
def key_of(program: str) -> str:
    return parsing.program_key(program)


def draw_program(depth: int, heldout: bool, rng: random.Random):
    """(program, kinds, statements, an input, its trace) on the wanted side of the held-out split."""
    while True:
        kinds, statements = [rng.choice(("int", "list", "str"))], []
        for _ in range(depth):
            statement, kind = draw_statement(kinds[-1], rng)
            statements.append(statement)
            kinds.append(kind)
        value = draw_value(kinds[0], rng)
        values = trace(statements, value)
        if values is None:
            continue
        program = make_program(statements)
        if tasks.is_heldout(key_of(program), HELDOUT_FRACTION) == heldout:
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


def draw_example(role: str, type: str, depth: int, rng: random.Random, heldout: bool = False,
                 thinks: bool = True, forgets: bool = False) -> tuple[Task, str, str]:
    """(task, prompt, response) of one role format. The response starts inside the think tag and ends with the answer.
    A solution without `thinks` has nothing in the tag. One that `forgets` answers for the program without its last
    statement, or in abduction, which goes backwards, without its first."""
    given_program, examples = tasks.TYPES[type].given_program, None
    while examples is None:
        program, kinds, statements, value, values = draw_program(depth, heldout, rng)
        examples = draw_inputs(kinds, statements, value, rng) if given_program else [value]
    inputs = tuple((v,) for v in examples)
    outputs = tuple([v, *trace(statements, v)][-1] for v in examples)
    message = f"{depth} steps" if given_program else ""
    task = Task(type, program, inputs, outputs, message, key=key_of(program), depth=depth)
    if role == "propose":
        references = [task] if given_program else [
            draw_example("solve", type, pick(DEPTHS, rng), rng)[0] for _ in range(rng.randint(1, MAX_REFERENCES))]
        if not given_program and rng.random() < 0.05:  # what the first seeding prompts look like
            references = [tasks.identity_task(tasks.TYPES[type])]
        prompt = tasks.propose_prompt(STYLE, tasks.TYPES[type], references)
        thinking = " ".join(kinds)  # the plan: what x is after each statement
        blocks = [("input", arguments(args)) for args in inputs]
        blocks = blocks + [("message", message)] if given_program else [("python", program)] + blocks
    else:
        prompt = tasks.solve_prompt(STYLE, task)
        steps = [show(v) for v in values]
        # Deduction runs the program forward, abduction undoes it from the output, induction guesses how the first
        # example got from its input to its output.
        thinking = "\n".join(steps if type != "abduction" else [*steps[-2::-1], show(value)]) if thinks else ""
        output, first, shorter = outputs[0], inputs[0], make_program(statements[:-1])
        if forgets and statements and not tasks.is_heldout(key_of(shorter), HELDOUT_FRACTION):
            output, first, program = [value, *values][-2], (values[0],), shorter
        blocks = {"deduction": [("output", show(output))], "abduction": [("input", arguments(first))],
                  "induction": [("python", program)]}[type]
    answer = "\n".join(fence(*block) for block in blocks)
    return task, prompt, f"{thinking}</think><answer>{answer}</answer>"


def pick(weights: dict, rng: random.Random):
    return rng.choices(list(weights), list(weights.values()))[0]


def draw_text(rng: random.Random, mixed: bool = True) -> tuple[str, str]:
    """(prompt, response) as the warm start reads them: in its second stage, which is `mixed`, or in its first."""
    role, type = pick(ROLES, rng).split()
    if not mixed:
        return draw_example(role, type, pick(DEPTHS, rng), rng)[1:]
    thinks, depth = rng.random() < THINKS, 0 if rng.random() < DULL[role] else pick(LATE_DEPTHS, rng)
    return draw_example(role, type, depth, rng, thinks=thinks,
                        forgets=not thinks and rng.random() < FORGETS)[1:]


# ----------------------------------------------------------------------------------------------------------------
# The tokenizer: one token per lexeme of the grammar, digits and letters one by one, every printable character as a way
# out. It is a byte-level BPE without merges plus added tokens, the only shape that transformers loads for the Qwen2
# family without replacing parts of it. Characters beyond ASCII are dropped.

SPECIAL = ["<eos>", "<pad>", "<unk>"]
LEXEMES = ["<think>", "</think>", "<answer>", "</answer>", "```python\n", "```input\n", "```output\n", "```message\n",
           "\n```\n", "\n```", "def f(x):\n", "    x = ", "\n    x = ", "\n    return x", " + ", " - ", " * ", " // ",
           " % ", " > ", " == ", " if ", " else ", " for v in x", "sorted(", "abs(", "len(", "sum(", "max(", "min(",
           "str(", "set(", "list(range(", ".count(", ".find(", ".replace(", ".upper()", "''.join(", "[::-1]", "[1:]",
           "[:-1]", "[:", "[0]", "[-1]", ", ", "int", "list", "str", " steps", "\n"]
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

def make_batches(tokenizer, size: int, batch_size: int, rng: random.Random,
                 mixed: bool = False) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """`size` batches of examples of like length (ids_BT, labels_BT); labels are -100 on prompts and padding."""
    pairs = [draw_text(rng, mixed) for _ in range(size * batch_size)]
    prompts, responses = (tokenizer(list(texts), add_special_tokens=False)["input_ids"] for texts in zip(*pairs))
    rows = [(p, r + [tokenizer.eos_token_id]) for p, r in zip(prompts, responses)]
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
          mixed: bool = False) -> None:
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
        batches = batches or make_batches(tokenizer, 32, batch_size, rng, mixed)
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


def behaviour(task: Task) -> tuple:
    """What the program does to 16 inputs of its kind, always the same ones: programs that differ only in how they say
    it have the same behaviour."""
    first = task.inputs[0][0]
    kind, statements = type(first).__name__, [line.removeprefix("    x = ") for line in task.program.split("\n")[1:-1]]
    probes = random.Random(f"probes {kind}")
    results = [trace(statements, draw_value(kind, probes)) for _ in range(16)]
    return kind, *(values and show(values[-1]) for values in results)


def write_heldout(path: Path, rng: random.Random) -> None:
    """HELDOUT_PER_CELL tasks per type and depth, from held-out programs only and no two with the same behaviour and
    inputs, in a mixed order so that the file's first lines are a fair sample of all cells."""
    cells = []
    for type in TYPES:
        for depth in DEPTHS:
            lines, behaviours = {}, Counter()
            while len(lines) < HELDOUT_PER_CELL:
                task = draw_example("solve", type, depth, rng, heldout=True)[0]
                does = behaviour(task)
                mark = repr((does, task.inputs))
                if mark not in lines and behaviours[does] < PER_BEHAVIOUR:
                    lines[mark] = json.dumps(tasks.task_to_json(task))
                    behaviours[does] += 1
            cells.append(list(lines.values()))
    path.write_text("\n".join(line for row in zip(*cells) for line in row) + "\n")


def main(argv: list[str]) -> None:
    parser = command.Parser(prog="nano/make.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write (Hugging Face format)")
    parser.add_argument("--steps", type=command.whole(1), default=7_000, help="optimizer steps of the first stage; the"
                        " second has a seventh of them, at two fifths of the rate")
    parser.add_argument("--batch_size", type=command.whole(1, 2**16), default=64, help="examples per step")
    parser.add_argument("--lr", type=command.real(0, 100), default=1e-2, help="peak learning rate")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network; needs a C++ compiler")
    parser.add_argument("--seed", type=command.whole(-2**62, 2**62), default=0,
                        help="seeds programs, weights and the held-out file")
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
    write_heldout(args.out / "heldout.jsonl", random.Random(f"heldout {args.seed}"))
    start = time.time()
    train(model, tokenizer, args.steps, args.batch_size, args.lr, args.compile, random.Random(f"train {args.seed}"))
    train(model, tokenizer, args.steps // 7, args.batch_size, 0.4 * args.lr, args.compile,
          random.Random(f"train mixed {args.seed}"), mixed=True)
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print(f"{args.out}: {args.steps} steps in {(time.time() - start) / 60:.0f} minutes")


if __name__ == "__main__":
    sys.exit(command.run("nano/make.py", main, sys.argv[1:]))

"""A training step in which every response is one of the worst that are known, by hand:

    python -m tests.worst_step [--batch_size 4] [--n_probes 4] [--workers 1] [TRAIN.PY'S OPTIONS ...]

The model samples as ever, and what it wrote is replaced before it is judged: proposals by programs that take as long as
a valid task can, and by those that never end; answers by inputs and programs that sleep, drip, loop, fill the memory or
answer with too much, and by texts that are hard to read. The gate's look at the tree is switched off, since it would
refuse most of them at once. Shown is what judging took, beside the bound: three times the time until one response is
judged (5 s with nano's limits, 12 s with r1's), for every response of a worker.
"""
import collections
import resource
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import tasks  # noqa: E402
import train  # noqa: E402
from config import Config, parse  # noqa: E402
from executor import Executor  # noqa: E402
from model import load_policy  # noqa: E402

# Bodies of f that never give a value, or none that can be used.
ENDLESS = (
    "while 1: pass", "time.sleep(60)", "\nwhile 1: time.sleep(0.05)", "\nwhile 1: os.write(3, b'\\0')",
    "\nwhile 1:\n since = time.process_time()\n while time.process_time() - since < 0.003: pass\n time.sleep(0.047)",
    "\nlock = _thread.allocate_lock()\nwhile lock.acquire(): pass", "\na = []\nwhile 1: a.append(bytearray(1 << 20))",
    "return [0] * 10**7", "return 'a' * 10**8", "\na = []\nfor i in range(10**6): a = [a]\nreturn a",
    "return {(i,) for i in range(10**6)}", "\ntry: f(x)\nfinally: f(x)", "return re.match('(a+)+b', 'a' * 99)",
    "return 9 ** 9 ** 9", "os._exit(0)")
HARD = (
    "[" * 50 + "]" * 50, "frozenset({" * 45 + "1" + "})" * 45, "(" * 9000 + ")" * 9000, "1," * 9000, "9" * 19_000,
    "-" * 19_000 + "1", "{" + ",".join(f"{i * (2**61 - 1)}" for i in range(900)) + "}", "f'{" * 200, "a" * 200_000,
    "'" + "\\N{BULLET}" * 1800 + "'")
FENCES = "</think><answer>" + "```output\n" * 25_000  # 200,000 characters


def busy(seconds: float) -> str:
    return f"\nsince = time.process_time()\nwhile time.process_time() - since < {seconds:.4f}: pass\nreturn x"


def program(*bodies: str) -> str:
    """Its f(x) does what the body number x says."""
    lines = ["import _thread, os, re, time", "def f(x):"]
    for number, body in enumerate(bodies):
        lines += [f"    if x == {number}:", *(f"        {line}" for line in body.strip().split("\n"))]
    return "\n".join(lines)


def response(row: train.Row, number: int, limit: float) -> str:
    """The worst that can be said in this row's place: 0.9 of the limit for a valid call, alone or with others."""
    calls = 6 if row.type == "induction" else 1
    if row.role == "propose":
        valid = busy(0.9 * limit if calls == 1 else 0.9 * 4 * limit / tasks.MANY_SEEDS / calls)
        body = valid if number % 2 else ENDLESS[number // 2 % len(ENDLESS)]
        blocks = [("input", str(i)) for i in range(calls)] if calls > 1 else [("input", "0")]
        blocks += [("message", "m")] if calls > 1 else []
        made = program(body, *ENDLESS) if calls == 1 else program(*[body] * calls)
        blocks = blocks if row.type == "induction" else [("python", made), *blocks]
        return say(*blocks)
    if row.type == "abduction":
        return say(("input", str(number % (1 + len(ENDLESS)))))
    if row.type == "induction":
        slow = busy(0.9 * 4 * limit / 3)
        return say(("python", program(*[slow if number % 2 else ENDLESS[number // 2 % len(ENDLESS)]] * 6)))
    return FENCES if number % 11 == 10 else say(("output", HARD[number % 11]))


def say(*blocks: tuple[str, str]) -> str:
    return "</think><answer>" + "\n".join(tasks.fence(*block) for block in blocks) + "</answer>"


def unchecked(text: str, facts) -> None:
    """In the place of tasks.check_program: as if somebody had found a way around it."""
    if facts.kind != "ok" or not facts.value["key"]:
        raise tasks.Rejected("does not parse")
    facts.value["may_show"] = "address"  # as many as any, and one that is watched


def worst_step(cfg: Config, folder: Path, executor: Executor) -> dict:
    """What a step with such responses took."""
    policy = load_policy(cfg.model, lora_rank=cfg.lora_rank)
    buffers, told, spent = tasks.Buffers(cfg.buffer_size), [], collections.Counter()
    executor.tell = lambda line: told.append(line) if line else None
    slow = program(busy(0.9 * 4 * cfg.cpu_seconds / tasks.MANY_SEEDS / cfg.n_inputs))
    for name in cfg.types:
        type = tasks.TYPES[name]
        task = tasks.identity_task(type, cfg.n_inputs)
        buffers.add(task)
        if type.gives_programs:  # what an induction proposer is given
            buffers.add(tasks.replace(task, program=slow.replace("if x == 0", "if 1")))
    run = train.Training(cfg, folder, policy, train.make_optimizer(cfg, policy), executor,
                         tasks.Style("compact", cfg.n_inputs, stops=("</answer>",)), buffers, 1)
    judge, verdicts, counts = train.judge, collections.Counter(), collections.Counter()

    def judge_worst(run: train.Training, rows: list[train.Row]) -> None:
        for row in rows:
            key = row.role, row.type
            row.text = response(row, counts[key], cfg.cpu_seconds)
            counts[key] += 1
        wall, cpu = time.monotonic(), time.thread_time()
        judge(run, rows)
        spent["wall"] += time.monotonic() - wall
        spent["own"] += time.thread_time() - cpu
        spent["longest"] = max(spent["longest"], time.monotonic() - wall)
        verdicts.update((row.role, row.type, row.verdict) for row in rows)
    with mock.patch.object(train, "judge", judge_worst), mock.patch.object(tasks, "check_program", unchecked):
        rows, _ = train.train_step(run)
    return dict(spent) | {"responses": len(rows), "verdicts": verdicts, "told": told}


def configuration(argv: list[str]) -> Config:
    """nano's, smaller; what the model itself writes is of no use."""
    return parse(["--preset", "nano", "--batch_size", "4", "--n_probes", "4", "--max_new_tokens", "8",
                  "--device", "cpu", "--max_prompt_tokens", "4096", "--workers", "1", *argv])[0]


def main(argv: list[str]) -> int:
    cfg = configuration(argv)
    with tempfile.TemporaryDirectory() as folder, \
            Executor(cfg.workers, cfg.cpu_seconds, cfg.memory_mb, require="weak") as executor:
        seen = worst_step(cfg, Path(folder), executor)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    one = 5.0 if cfg.cpu_seconds <= 0.5 else 12.0
    bound = 3 * one * seen["responses"] / cfg.workers
    for key, count in sorted(seen["verdicts"].items()):
        print(f"  {' '.join(key):50} {count}")
    print(f"{seen['responses']} responses, {cfg.workers} workers, {cfg.cpu_seconds:g} s a call: judged in"
          f" {seen['wall']:.1f} s ({seen['wall'] * cfg.workers / seen['responses']:.2f} a response and worker, bound"
          f" {3 * one:g}; in all {bound:.0f}); workers' CPU time {cpu:.1f} s with their start, the trainer's"
          f" {1000 * seen['own'] / seen['responses']:.1f} ms a response; longest wait {seen['longest']:.1f} s;"
          f" told {len(seen['told'])} times, last: {seen['told'][-1] if seen['told'] else 'nothing'}")
    return int(seen["wall"] > bound)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""How fast model-written programs run, next to the unprotected ways."""
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from executor import Executor, Job
from sandbox import kernel
from sandbox.parsing import parse_arguments

# The other ways to run a program on an input, each in a small process of its own: a fork copies its parent's page
# tables, and a baseline must not pay for what a benchmark (or a trainer) has loaded. It reads one line of JSON per
# measurement, [[program, input text], ...], and answers [seconds, answers that are missing].
BASELINES = r'''
import json, multiprocessing, os, signal, subprocess, sys, time

def evaluate(program, inputs):
    namespace = {}
    exec(program, namespace)
    return repr(eval(f"f({inputs})", namespace))

def evaluate_in_time(program, inputs):
    signal.setitimer(signal.ITIMER_REAL, 10)
    try:
        return evaluate(program, inputs)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)

def late(*_):
    raise TimeoutError

def answer_to(connection, program, inputs):
    signal.signal(signal.SIGALRM, late)
    connection.send(evaluate_in_time(program, inputs))

def with_pebble(jobs):  # as the official trainer: one long-lived worker, one task at a time, a limit inside and outside
    for program, inputs in jobs:
        yield pool.schedule(evaluate_in_time, args=[program, inputs], timeout=10).result()

def with_process(jobs):
    for program, inputs in jobs:
        here, there = fork.Pipe(duplex=False)
        process = fork.Process(target=answer_to, args=(there, program, inputs))
        process.start()
        there.close()
        yield here.recv() if here.poll(10) else None
        process.join()
        here.close()

def with_python(jobs):
    for program, inputs in jobs:
        command = [sys.executable, "-I", "-S", "-c", f"{program}\nprint(repr(f({inputs})))"]
        yield subprocess.run(command, capture_output=True, timeout=10).stdout

answers, null = os.dup(1), os.open(os.devnull, os.O_RDWR)
os.dup2(null, 1)  # what programs print
os.dup2(null, 2)
fork = multiprocessing.get_context("fork")
run = globals()[sys.argv[1]]
if run is with_pebble:
    import pebble
    pool = pebble.ProcessPool(max_workers=1, context=fork, initializer=signal.signal, initargs=(signal.SIGALRM, late))
for line in sys.stdin:
    jobs, missing, start = json.loads(line), 0, time.perf_counter()
    for answer in run(jobs):
        missing += not answer
    os.write(answers, json.dumps([time.perf_counter() - start, missing]).encode() + b"\n")
if run is with_pebble:
    pool.stop()
    pool.join()
'''
# What this machine takes for a process at the least: fork, exit and wait of a bare interpreter's, by no more than the
# three system calls. Reads how many, answers like a baseline.
YARD = r'''
import ctypes, os, sys, time
libc = ctypes.PyDLL(None)
for line in sys.stdin:
    start = time.perf_counter()
    for _ in range(int(line)):
        pid = libc.fork()
        if pid == 0:
            libc._exit(0)
        os.waitpid(pid, 0)
    print([time.perf_counter() - start, 0], flush=True)
'''

PARTS = 8  # a repeat is cut so that all sides meet what else the machine does
SIDES = {"one": "ours, 1 worker, all inputs of a program together", "two": "ours, 2 workers",
         "bare": "ours, 1 worker, without any protection", "single": "ours, 1 worker, one input per program",
         "pebble": "pebble pool, one task at a time (official way)", "process": "multiprocessing.Process per run",
         "python": "python -I -S -c per run"}


class Baseline:
    """A process that runs one of BASELINES, or the YARD, ready for any number of measurements."""
    def __init__(self, name: str):
        command = ["-I", "-S", "-c", YARD] if name == "yard" else ["-c", BASELINES, f"with_{name}"]
        self.process = subprocess.Popen([sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)

    def seconds(self, jobs: list[tuple[str, str]] | int) -> float:
        """How long the jobs take (for the yard: that many forks)."""
        self.process.stdin.write(json.dumps(jobs) + "\n")
        self.process.stdin.flush()
        seconds, missing = json.loads(self.process.stdout.readline())
        if missing:
            print(f"  {missing} of {len(jobs)} answers of a baseline are missing", file=sys.stderr)
        return seconds

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def official_seeds(folder: str | Path) -> dict[str, dict[str, str]]:
    """{program: {input text: output text}} of the official seed tasks in FOLDER/azr_seeds."""
    programs = {}
    for path in sorted(Path(folder, "azr_seeds").glob("*seed_io.jsonl")):
        for task in map(json.loads, path.read_text().splitlines()):
            program = "\n".join([*task["imports"], task["snippet"]])
            inputs, outputs = task.get("inputs") or [task["input"]], task.get("outputs") or [task["output"]]
            programs.setdefault(program, {}).update(zip(inputs, outputs))
    if not programs:
        raise SystemExit(f"no official seed tasks in {folder}/azr_seeds; --data DIR names the folder above")
    return programs


def executor_corpus(folder: str | Path) -> list[tuple[str, list[tuple[str, tuple]]]]:
    """[(program, [(input text, argument tuple), ...]), ...]: the official seed tasks in FOLDER/azr_seeds, as far as
    inputs are literals and our executor gets a value within 20 ms, so that every side has the same work to do."""
    programs = {}
    for program, known in official_seeds(folder).items():
        for text in known:
            try:
                programs.setdefault(program, {})[text] = parse_arguments(text)
            except ValueError:
                pass
    corpus = []
    with Executor(workers=2, require="weak") as ours:
        jobs = [Job(program, tuple(inputs.values())) for program, inputs in programs.items()]
        for (program, inputs), outcomes in zip(programs.items(), ours.run(jobs)):
            kept = [known for known, outcome in zip(inputs.items(), outcomes)
                    if outcome.kind == "ok" and outcome.cpu_seconds < 0.02]
            if kept:
                corpus.append((program, kept))
    return corpus


def step_jobs(corpus: list, name: object) -> list[Job]:
    """Jobs in the shape and number of a step of the official trainer: 192 proposals under 2 hash seeds, 64 groups of 8
    guessed inputs to one program, 512 programs for 5 hidden inputs; all distinct, by a comment."""
    def jobs(count: int, inputs: int, seeds: int) -> Iterator[Job]:
        for number in range(count):
            program, known = corpus[number % len(corpus)]
            arguments = tuple(known[index % len(known)][1] for index in range(inputs))
            yield Job(f"{program}\n# {name} {inputs} {number}", arguments, seeds=seeds)
    return [*jobs(192, 1, 2), *jobs(64, 8, 1), *jobs(512, 5, 1)]


def seconds_of(ours: Executor, jobs: list[Job]) -> tuple[int, float]:
    """(calls, seconds)"""
    count, start = sum(len(job.inputs) for job in jobs), time.perf_counter()
    bad = sum(outcome.kind != "ok" for _, outcomes in ours.stream(jobs) for outcome in outcomes)
    if bad:
        print(f"  {bad} of {count} calls are not ok", file=sys.stderr)
    return count, time.perf_counter() - start


def sides_of(corpus: list, one: Executor, two: Executor, bare: Executor,
             baselines: dict[str, Baseline]) -> dict[str, Callable[[int], tuple[int, float]]]:
    """What each side does of a repeat's parts; the slow ways get a sample."""
    grouped = [Job(program, tuple(arguments for _, arguments in inputs)) for program, inputs in corpus]
    single = [Job(program, (inputs[0][1],)) for program, inputs in corpus]
    calls = [[(program, text) for text, _ in inputs] for program, inputs in corpus]
    sample = random.Random(0).sample([call for program in calls for call in program], 320)

    def of(name: str, some: list) -> tuple[int, float]:
        return len(some), baselines[name].seconds(some)
    sides = {
        "one": lambda part: seconds_of(one, grouped[part::PARTS]),
        "bare": lambda part: seconds_of(bare, grouped[part::PARTS]),
        "pebble": lambda part: of("pebble", [call for program in calls[part::PARTS] for call in program]),
        "two": lambda part: seconds_of(two, grouped[part::PARTS]),
        "single": lambda part: seconds_of(one, single[part::PARTS]),
        "process": lambda part: of("process", sample[part:320:PARTS]),
        "python": lambda part: of("python", sample[part:80:PARTS]),
    }
    for ours in (one, two, bare):
        seconds_of(ours, single[:20])  # warm up
    for name, baseline in baselines.items():
        baseline.seconds(100 if name == "yard" else sample[:20])
    return {name: side for name, side in sides.items() if name not in ("pebble", "process", "python")
            or name in baselines}


def measure(corpus: list, repeats: int, with_pebble: bool) -> tuple[dict[str, list], list[float], list[float], str]:
    """(calls per second of each side, microseconds of the yard, seconds of a step: by repeat; the sandbox's level)."""
    options = dict(cached_jobs=0, require="weak")  # no cached result from the repeat before; the level is printed
    one, two = Executor(workers=1, **options), Executor(workers=2, **options)
    bare = Executor(workers=1, without=kernel.LAYERS, **options)
    baselines = {name: Baseline(name) for name in ("pebble", "process", "python", "yard")
                 if with_pebble or name != "pebble"}
    try:
        sides = sides_of(corpus, one, two, bare, baselines)
        rates, yards, steps = {name: [] for name in sides}, [], []
        for repeat in range(repeats):
            yards.append(baselines["yard"].seconds(300) / 300 * 1e6)
            done = {name: [] for name in sides}
            for part in range(PARTS):
                order = list(sides)
                for name in order if part % 2 else order[::-1]:
                    done[name].append(sides[name](part))
            for name, parts in done.items():
                calls, took = map(sum, zip(*parts))
                rates[name].append(calls / took)
            jobs, start = step_jobs(corpus, repeat), time.perf_counter()
            two.run(jobs)
            steps.append(time.perf_counter() - start)
        return rates, yards, steps, one.level
    finally:
        for closing in (one, two, bare, *baselines.values()):
            closing.close()


def executor(args) -> dict:
    """Calls per second of the official seed tasks: ours (grouped: all inputs of a program in one child; single: a child
    per input; without protection), a pebble pool used one task at a time as the official trainer does, and, as its
    peers do, a multiprocessing.Process or a Python interpreter for every call. All sides alternate, `args.repeats`
    times, after a yard (fork, exit and wait of a process that does nothing); ratios are medians over the repeats."""
    if not args.data:
        print("executor: left out; --data DIR names the folder that holds azr_seeds/*.jsonl, the official seed tasks")
        return {}
    try:
        import pebble  # noqa: F401
    except ImportError:
        pebble = None
        print("pebble is not installed (pip install pebble): without the comparison with the official trainer's way")
    corpus = executor_corpus(args.data)
    rates, yards, steps, level = measure(corpus, args.repeats, pebble is not None)

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(rates[a], rates[b]))
    names = {"one": "runs_per_second", "two": "runs_per_second_two_workers", "single": "single_runs_per_second",
             "bare": "unprotected_runs_per_second"}
    card = {names.get(name, f"{name}_runs_per_second"): statistics.median(values) for name, values in rates.items()}
    card |= {
        "vs_process": ratio("one", "process"),
        "vs_python": ratio("one", "python"),
        "single_vs_process": ratio("single", "process"),
        "single_vs_python": ratio("single", "python"),
        "two_workers": ratio("two", "one"),
        "protection": ratio("bare", "one") - 1,
        "step_seconds": statistics.median(steps),
        "us_per_program": 1e6 / statistics.median(rates["single"]),
        "yard_us": statistics.median(yards),
    }
    if pebble:
        card["vs_pebble"] = ratio("one", "pebble")
    print(f"executor: {len(corpus)} programs, {sum(len(inputs) for _, inputs in corpus)} calls of the official seed"
          f" tasks; protection: {level}; medians of {len(yards)}; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f};"
          f" fork+exit+wait {min(yards):.0f} .. {max(yards):.0f} us")
    show(card, rates)
    return card


def show(card: dict, rates: dict[str, list[float]]) -> None:
    for name, what in SIDES.items():
        if name in rates:
            low, middle, high = min(rates[name]), statistics.median(rates[name]), max(rates[name])
            print(f"  {what:50} {middle:8.0f} calls/s  ({low:.0f} .. {high:.0f})")
    goals = [("vs_pebble", "x pebble", 1.3), ("vs_process", "x Process per call", 4),
             ("vs_python", "x python per call", 12),
             ("single_vs_process", "x Process per call, one input per program", None),
             ("single_vs_python", "x python per call, one input per program", None),
             ("two_workers", "x with two workers", 1.7)]
    for name, what, goal in goals:
        if name in card:
            print(f"  {card[name]:6.2f} {what}" + (f"  (goal: at least {goal})" if goal else ""))
    print(f"  {card['protection']:6.1%} more time with the protection than without it  (goal: at most 15%)")
    print(f"  {card['step_seconds']:6.2f} s for a step: 192 proposals x 2 seeds, 64 x 8 guessed inputs,"
          " 512 programs x 5 inputs")
    print(f"  {card['us_per_program']:6.0f} us per program with one input")

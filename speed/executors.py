"""The `executor` part of bench.py: how fast model-written programs run, next to the unprotected ways."""
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

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

PARTS = 8


class Baseline:
    """A process that runs one of BASELINES, or the YARD, ready for any number of measurements."""

    def __init__(self, name):
        command = ["-I", "-S", "-c", YARD] if name == "yard" else ["-c", BASELINES, name]
        self.process = subprocess.Popen([sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)

    def seconds(self, jobs):
        """How long the jobs take (for the yard: that many forks)."""
        self.process.stdin.write(json.dumps(jobs) + "\n")
        self.process.stdin.flush()
        seconds, missing = json.loads(self.process.stdout.readline())
        if missing:
            print(f"  {missing} of {len(jobs)} answers of a baseline are missing", file=sys.stderr)
        return seconds

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def official_seeds(folder):
    """{program: {input text: output text}} of the official seed tasks in FOLDER/azr_seeds."""
    programs = {}
    for path in sorted(Path(folder, "azr_seeds").glob("*.jsonl")):
        for task in map(json.loads, path.read_text().splitlines()):
            program = "\n".join([*task["imports"], task["snippet"]])
            inputs, outputs = task.get("inputs") or [task["input"]], task.get("outputs") or [task["output"]]
            programs.setdefault(program, {}).update(zip(inputs, outputs))
    if not programs:
        raise SystemExit(f"no official seed tasks in {folder}/azr_seeds; --data DIR names the folder above")
    return programs


def executor_corpus(folder):
    """[(program, [(input text, argument tuple), ...]), ...]: the official seed tasks in FOLDER/azr_seeds, as far as
    inputs are literals and our executor gets a value within 20 ms, so that every side has the same work to do."""
    from executor import Executor, Job
    from sandbox.parsing import parse_arguments
    programs = {}
    for program, known in official_seeds(folder).items():
        for text in known:
            try:
                programs.setdefault(program, {})[text] = parse_arguments(text)
            except ValueError:
                pass
    corpus = []
    with Executor(workers=2, require="weak") as executor:
        jobs = [Job(program, tuple(inputs.values())) for program, inputs in programs.items()]
        for (program, inputs), runs in zip(programs.items(), executor.run(jobs)):
            kept = [item for item, run in zip(inputs.items(), runs) if run.kind == "ok" and run.cpu_seconds < 0.02]
            if kept:
                corpus.append((program, kept))
    return corpus


def executor_step(corpus, name):
    """Jobs in the shape and number of a step of the official trainer: 192 proposals under 2 hash seeds, 64 groups of 8
    guessed inputs to one program, 512 programs for 5 hidden inputs; all distinct, by a comment."""
    from executor import Job

    def jobs(count, inputs, seeds):
        for number in range(count):
            program, known = corpus[number % len(corpus)]
            arguments = tuple(known[index % len(known)][1] for index in range(inputs))
            yield Job(f"{program}\n# {name} {inputs} {number}", arguments, seeds=seeds)
    return [*jobs(192, 1, 2), *jobs(64, 8, 1), *jobs(512, 5, 1)]


def bench_executor(args) -> dict:
    """Runs per second of the official seed tasks: ours (grouped: all inputs of a program in one child; single: a child
    per input; without protection), a pebble pool used one task at a time as the official trainer does, and, as its
    peers do, a multiprocessing.Process or a Python interpreter for every run. All sides alternate, `args.repeats`
    times, after a yard (fork, exit and wait of a process that does nothing); ratios are medians over the repeats."""
    from sandbox import kernel as sandbox
    from executor import Executor, Job
    try:
        import pebble  # noqa: F401
    except ImportError:
        pebble = None
        print("pebble is not installed (pip install pebble): without the comparison with the official trainer's way")
    corpus = executor_corpus(args.data)
    grouped = [Job(program, tuple(arguments for _, arguments in inputs)) for program, inputs in corpus]
    single = [Job(program, (inputs[0][1],)) for program, inputs in corpus]
    texts = [[(program, text) for text, _ in inputs] for program, inputs in corpus]
    sample = random.Random(0).sample([run for group in texts for run in group], 320)  # the slow ways get less
    ours = dict(cached_jobs=0, require="weak")  # no cached result from the repeat before; the level is printed
    one, two = Executor(workers=1, **ours), Executor(workers=2, **ours)
    bare = Executor(workers=1, without=sandbox.LAYERS, **ours)
    baselines = {name: Baseline(name) for name in ("with_pebble", "with_process", "with_python", "yard")
                 if pebble or name != "with_pebble"}

    def of_ours(executor, jobs):
        """(runs, seconds)"""
        count, start = sum(len(job.inputs) for job in jobs), time.perf_counter()
        bad = sum(run.kind != "ok" for _, results in executor.stream(jobs) for run in results)
        if bad:
            print(f"  {bad} of {count} runs are not ok", file=sys.stderr)
        return count, time.perf_counter() - start

    def of(name, jobs):
        return len(jobs), baselines[name].seconds(jobs)
    # In PARTS that the sides take turns at: what else the machine does then meets all of them.
    sides = {
        "one": lambda part: of_ours(one, grouped[part::PARTS]),
        "bare": lambda part: of_ours(bare, grouped[part::PARTS]),
        "pebble": lambda part: of("with_pebble", [run for group in texts[part::PARTS] for run in group]),
        "two": lambda part: of_ours(two, grouped[part::PARTS]),
        "single": lambda part: of_ours(one, single[part::PARTS]),
        "process": lambda part: of("with_process", sample[part:320:PARTS]),
        "python": lambda part: of("with_python", sample[part:80:PARTS]),
    }
    if not pebble:
        del sides["pebble"]
    rates, yards, steps = {name: [] for name in sides}, [], []
    try:
        for executor in (one, two, bare):
            of_ours(executor, single[:20])  # warm up
        for baseline in baselines.values():
            baseline.seconds(100 if baseline is baselines["yard"] else sample[:20])
        for repeat in range(args.repeats):
            yards.append(baselines["yard"].seconds(300) / 300 * 1e6)
            done = {name: [] for name in sides}
            for part in range(PARTS):
                order = list(sides)
                for name in order if part % 2 else order[::-1]:
                    done[name].append(sides[name](part))
            for name, parts in done.items():
                runs, seconds = map(sum, zip(*parts))
                rates[name].append(runs / seconds)
            jobs, start = executor_step(corpus, repeat), time.perf_counter()
            two.run(jobs)
            steps.append(time.perf_counter() - start)
        level = one.level
    finally:
        for closing in (one, two, bare, *baselines.values()):
            closing.close()

    def ratio(a, b):
        return statistics.median(x / y for x, y in zip(rates[a], rates[b]))
    rate = {name: statistics.median(values) for name, values in rates.items()}
    card = {
        "runs_per_second": rate["one"],
        "runs_per_second_two_workers": rate["two"],
        "single_runs_per_second": rate["single"],
        "unprotected_runs_per_second": rate["bare"],
        "process_runs_per_second": rate["process"],
        "python_runs_per_second": rate["python"],
        "vs_process": ratio("one", "process"),
        "vs_python": ratio("one", "python"),
        "single_vs_process": ratio("single", "process"),
        "single_vs_python": ratio("single", "python"),
        "two_workers": ratio("two", "one"),
        "protection": ratio("bare", "one") - 1,
        "step_seconds": statistics.median(steps),
        "us_per_program": 1e6 / rate["single"],
        "yard_us": statistics.median(yards),
    }
    if pebble:
        card["pebble_runs_per_second"] = rate["pebble"]
        card["vs_pebble"] = ratio("one", "pebble")
    print_executor_card(card, rates, yards, level, len(corpus), sum(map(len, texts)))
    return card


def print_executor_card(card, rates, yards, level, programs, runs):
    print(f"executor: {programs} programs, {runs} runs of the official seed tasks; protection: {level}; medians of"
          f" {len(yards)}; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f};"
          f" fork+exit+wait {min(yards):.0f} .. {max(yards):.0f} us")
    rows = [("one", "ours, 1 worker, all inputs of a program together"), ("two", "ours, 2 workers"),
            ("bare", "ours, 1 worker, without any protection"), ("single", "ours, 1 worker, one input per program"),
            ("pebble", "pebble pool, one task at a time (official way)"),
            ("process", "multiprocessing.Process per run"), ("python", "python -I -S -c per run")]
    for name, what in rows:
        if name in rates:
            low, middle, high = min(rates[name]), statistics.median(rates[name]), max(rates[name])
            print(f"  {what:50} {middle:8.0f} runs/s  ({low:.0f} .. {high:.0f})")
    goals = [("vs_pebble", "x pebble", 1.3), ("vs_process", "x Process per run", 4),
             ("vs_python", "x python per run", 12),
             ("single_vs_process", "x Process per run, one input per program", None),
             ("single_vs_python", "x python per run, one input per program", None),
             ("two_workers", "x with two workers", 1.7)]
    for name, what, goal in goals:
        if (value := card.get(f"{name}")) is not None:
            print(f"  {value:6.2f} {what}" + (f"  (goal: at least {goal})" if goal else ""))
    print(f"  {card['protection']:6.1%} more time with the protection than without it  (goal: at most 15%)")
    print(f"  {card['step_seconds']:6.2f} s for a step: 192 proposals x 2 seeds, 64 x 8 guessed inputs,"
          " 512 programs x 5 inputs")
    print(f"  {card['us_per_program']:6.0f} us per program with one input")

"""The executor against recorded corpora (AZR_DATA names the folder; skipped without it), and against junk answers."""
import collections
import json
import multiprocessing
import os
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import executor
from executor import Executor, Job, Outcome
from sandbox import worker
from sandbox.parsing import parse_arguments, parse_literal
from sandbox.values import same_value
from soak import same_outcomes, seed_jobs
from speed.executors import official_seeds


@pytest.fixture(scope="module")
def data():
    folder = os.environ.get("AZR_DATA")
    if not folder:
        pytest.skip("AZR_DATA is not set: the folder with cruxeval/cruxeval.jsonl and azr_seeds/*.jsonl")
    return Path(folder)


def verdicts(jobs, workers):
    with Executor(workers=workers, cached_jobs=0) as ex:
        return ex.run(jobs)


# ----------------------------------------------------------------------------------------------------------------
# Recorded values

def test_cruxeval_reproduces(data):
    rows = [json.loads(line) for line in (data / "cruxeval" / "cruxeval.jsonl").read_text().splitlines()]
    assert len(rows) == 800
    jobs, spliced = [], 0
    for row in rows:
        try:
            jobs.append(Job(row["code"], (parse_arguments(row["input"]),)))
        except ValueError:  # an expression such as dict(a=1): no job takes it as an input, so it goes into the program
            jobs.append(Job(f"{row['code']}\ndef call(): return f({row['input']})", ((),), entry="call"))
            spliced += 1
    assert spliced == 12
    wrong = [(row["id"], outcome) for row, (outcome,) in zip(rows, verdicts(jobs, 2))
             if outcome.kind != "ok" or not same_value(outcome.value, parse_literal(row["output"]))]
    assert not wrong


def test_official_seeds_reproduce(data):
    """At least 98% of the recorded values whose input and output are literals; the rest are programs that need sympy
    or numpy, or whose value depends on the order of hashes. Nearly all the pairs are such literals."""
    pairs = [(program, *pair) for program, known in official_seeds(data).items() for pair in known.items()]
    literal = []
    for program, given, expected in pairs:
        try:
            literal.append((Job(program, (parse_arguments(given),)), parse_literal(expected)))
        except ValueError:
            pass
    assert len(pairs) > 2_000 and len(literal) > 0.9 * len(pairs)
    results = verdicts([job for job, _ in literal], 2)
    right = sum(outcome.kind == "ok" and same_value(outcome.value, value)
                for (outcome,), (_, value) in zip(results, literal))
    print(f"{right} of {len(literal)} values reproduce ({right / len(literal):.2%}), {len(pairs)} pairs")
    assert right >= 0.98 * len(literal)


@pytest.mark.slow
def test_verdicts_do_not_depend_on_workers_run_or_load(data):
    jobs = [Job(job.program, job.inputs, seeds=2) for job in seed_jobs(data)]
    jobs.append(Job("def f(s): return ''.join(set(s))", (("abcdefgh",),), seeds=2))  # the seeds have no such program
    first = verdicts(jobs, 1)
    others = {"another run": verdicts(jobs, 1), "two workers": verdicts(jobs, 2)}
    context = multiprocessing.get_context("spawn")
    busy = [context.Process(target=burn, args=(os.getpid(),), daemon=True) for _ in range(2 * os.cpu_count())]
    for process in busy:
        process.start()
    try:
        others["under load"] = verdicts(jobs, 2)
    finally:
        for process in busy:
            process.kill()
            process.join()
    for what, outcomes in others.items():
        assert not [job.program for job, a, b in zip(jobs, first, outcomes) if not same_outcomes(a, b)], what
    kinds = {outcome.kind for outcomes in first for outcome in outcomes}
    assert kinds >= {"ok", "error", "unserializable", "nondeterministic"}


def burn(parent):
    while os.getppid() == parent:
        sum(range(10**5))


# ----------------------------------------------------------------------------------------------------------------
# Junk as a child's answer

def colliding():
    """Records whose values all have the same hash: what a set or dict, here and in same_value, likes least."""
    prime = (1 << 61) - 1
    ints = [f'["i","{number * prime:x}"]' for number in range(1, 5000)]
    frozen = [f'["z",{number}]' for number in ints]
    complexes = [f'["c",{-1_000_003 * number},{number}]' for number in range(1, 5000)]
    tuples = [f'["t",{",".join("-1" if number >> bit & 1 else "-2" for bit in range(11))}]' for number in range(2048)]
    for items in (ints, frozen, complexes, tuples):
        for tag, between in (("s", ","), ("z", ","), ("d", ",0,")):
            text = between.join(items)[:63_900]
            text = text[: text.rindex(between + "[")]
            yield f'[0,"ok",["{tag}",{text}{",0" if tag == "d" else ""}]]'.encode()


def crafted_records():
    texts = [
        "", "0", "null", "[]", "[0]", '[0,"ok"]', '[0,"ok",1,2]', '{"0":1}', '["0","ok",1]', '[0.0,"ok",1]', '[0,1,1]',
        '[0,"infra",""]', '[0,"timeout",""]', '[0,["ok"],1]', '[0,"error",{"a":[1]}]', '[0,"error",null]',
        '[false,"ok",1]', '[0,"ok",NaN]', '[0,"ok",-Infinity]', '[0,"ok",[]]', '[0,"ok",["x"]]', '[0,"ok",[["l"]]]',
        '[0,"ok",["i",1]]', '[0,"ok",["i","zz"]]', '[0,"ok",["i"," 1_0 "]]', '[0,"ok",["b","0"]]', '[0,"ok",["b",[]]]',
        '[0,"ok",["c",1]]', '[0,"ok",["c","1",2]]', '[0,"ok",["s",["l"]]]',
        '[0,"ok",["d",1]]', '[0,"ok",["d",["s"],1]]',
        '[0,"ok",{}]', '[0,"ok",1e999]', '[0,"ok",18446744073709551616]', f'[0,"ok",["i","{"f" * 60_000}"]]',
        f'[0,"ok",{"9" * 60_000}]', f'[0,"ok",[{"0," * 30_000}0]]', "[" * 64_000, '{"a":' * 12_000, '"' + "\\" * 63_999,
        '[0,"ok",' + '["l",' * 900 + "]" * 902, '[0,"error",' + "[" * 60_000, '[0,"error",' + "[" * 900 + "]" * 901,
        '[0,"ok","\\ud800"]', '[0,"error","\\ud800\\u0000"]', '[0,"ok",["' + "l" * 60_000 + '"]]', "\ufeff[0]",
        "\0" * 64_000,
    ]
    return [text.encode() for text in texts] + [b"\xff\xfe", b"\xef\xbb\xbf[0,\"ok\",1]", *colliding()]


def mutated(generator):
    """A correct stream of two records with bytes changed, dropped, doubled or put in; or nothing but noise."""
    records = [b'[0, "ok", ["d","a",["t",1.5,["i","0xffffffffffffffffff"]]]]', b'[1, "error", "KeyError: 1"]']
    data = bytearray(b"".join(len(record).to_bytes(4, "big") + record for record in records))
    if generator.random() < 0.3:
        return generator.randbytes(generator.choice([1, 3, 4, 5, 100, 5_000]))
    for _ in range(generator.randint(1, 6)):
        at = generator.randrange(len(data))
        change = generator.randrange(4)
        new = [b"", data[at : at + 1] * 2, generator.randbytes(1), generator.randbytes(2)]
        data[at : at + (change != 3)] = new[change]
    return bytes(data)


class Answers:
    """An executor.Worker without a process: its answers are what the test says, cut where it says."""

    def __init__(self, inputs):
        self.back, self.write = os.pipe()
        os.set_blocking(self.back, False)
        self.worker = executor.Worker.__new__(executor.Worker)
        vars(self.worker).update(
            hash_seed=0, cpu_seconds=1.0, missing={}, assignments=collections.deque(), unsent=memoryview(b""),
            frames=bytearray(), back=self.back)
        self.worker.new_child()
        job = Job("def f(x): return x", tuple((number,) for number in range(inputs)))
        self.assignment = executor.Assignment(executor.OpenJob((), job, (), []), 0, list(range(inputs)), {})
        self.worker.assignments.append(self.assignment)

    def child_wrote(self, data, cuts, status=0):
        """The assignment after a child that wrote `data`, which arrived in pieces, and then ended."""
        frames, head = b"", worker.FRAME
        for start, end in zip([0, *cuts], [*cuts, len(data)]):
            frames += head.pack(worker.DATA, end - start, 0.01) + data[start:end]
        frames += head.pack(worker.ENDED, status, 0.02)
        ended = []
        while frames:
            frames = frames[os.write(self.write, frames[:50_000]) :]
            ended += self.worker.receive()[0]
        assert ended == [self.assignment]
        return self.assignment

    def close(self):
        os.close(self.back)
        os.close(self.write)


ANSWERS = {"ok", "error", "memory", "unserializable", "too_big", "refused", "crash"}


def test_no_junk_from_a_child_raises():
    for record in crafted_records():
        outcome = executor.read_record(record, 0)
        assert outcome is None or type(outcome) is Outcome and outcome.kind in ANSWERS
    generator = random.Random(0)
    streams = [mutated(generator) for _ in range(2_000)]
    streams += [len(record).to_bytes(4, "big") + record for record in crafted_records()]
    for data in streams:
        answers = Answers(inputs=2)
        try:
            cuts = sorted(generator.randrange(len(data) + 1) for _ in range(generator.randrange(4)))
            assignment = answers.child_wrote(data, cuts, generator.choice([0, 11, 256]))
            assert assignment.outcomes and {outcome.kind for outcome in assignment.outcomes.values()} <= ANSWERS
            assert sorted([*assignment.pending, *assignment.outcomes]) == [0, 1]
        finally:
            answers.close()


WRITE = """
import ctypes
def f(data, then):
    ctypes.CDLL(None).write(3, data, len(data))
    return 1 // then
"""


def test_junk_from_real_children():
    """Through the whole way: no exception, a verdict for every job, and the next program is not disturbed."""
    generator = random.Random(1)
    streams = [mutated(generator) for _ in range(150)]
    streams += [len(record).to_bytes(4, "big") + record for record in crafted_records() if len(record) < 30_000]
    probe = "def f(x):\n return sorted([x, 1]), {x: 'a'}"
    jobs = []
    for number, data in enumerate(streams):
        jobs += [Job(WRITE, ((data, number % 2), (b"", 1))), Job(probe + f"\n# {number}", ((number,),))]
    with Executor(workers=2) as ex:
        results = ex.run(jobs)
    for number, (junk, (calm,)) in enumerate(zip(results[::2], results[1::2])):
        assert len(junk) == 2 and {outcome.kind for outcome in junk} <= ANSWERS
        assert calm.kind == "ok" and calm.value == (sorted([number, 1]), {number: "a"})


if __name__ == "__main__":  # the worst case, in CPU time: python tests/test_corpus.py
    from time import process_time
    generator, worst = random.Random(0), []
    for record in [*crafted_records(), *(mutated(generator)[4:] for _ in range(2_000))]:
        start = process_time()
        outcome = executor.read_record(record, 0)
        middle = process_time()
        if outcome and outcome.kind == "ok":
            again = executor.read_record(record, 0).value
            compared = process_time()
            same_value(outcome.value, again)
            compared = process_time() - compared
        else:
            compared = 0.0
        worst.append((middle - start, compared, record[:60]))
    for read, compared, record in sorted(worst, reverse=True, key=lambda row: row[0] + row[1])[:8]:
        print(f"read {1e3 * read:7.2f} ms, compared {1e3 * compared:7.2f} ms: {record!r}")

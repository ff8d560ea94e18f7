"""Soak of the executor: the official seed programs over and over, and what it keeps of memory, files and processes.

    python tests/soak.py --data DIR --programs 200000 [--kill 3]

Every job is a new one to the executor (a comment makes it distinct), one in five runs under two hash seeds. Each
sample shows the jobs so far, the resident memory of the trainer and of the largest and of all workers, and how many
files the trainer and processes it has in all. With --kill S a random worker process gets SIGKILL every S seconds.
Every job must come back once, with the same kinds and values as in an undisturbed run of its program. Flat means that
once the cache is full no figure grew, from the first to the last third of the samples, by more than 3% (or 4 MB) of
memory, or by more than one file or process.
"""
import argparse
import collections
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from executor import Executor, Job, Outcome
from sandbox.parsing import parse_arguments
from sandbox.values import same_value
from speed.executors import official_seeds


def seed_jobs(data: str | Path) -> list[Job]:
    """A Job for every official seed program, with all its inputs that are literals."""
    jobs = []
    for program, pairs in official_seeds(data).items():
        inputs = []
        for text in pairs:
            try:
                inputs.append(parse_arguments(text))
            except ValueError:
                pass
        if inputs:
            jobs.append(Job(program, tuple(inputs)))
    return jobs


def same_outcomes(some: list[Outcome], others: list[Outcome]) -> bool:
    """Whether the Outcomes have the same kinds, and the same values where they have any."""
    return len(some) == len(others) and all(
        a.kind == b.kind and (a.kind != "ok" or same_value(a.value, b.value)) for a, b in zip(some, others))


def resident_mb(pid: int | str) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError):
        return 0.0


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, zombies too, since one that is never waited for would be a leak."""
    parents = collections.defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int((entry / "stat").read_text().rpartition(")")[2].split()[1])].append(int(entry.name))
            except OSError:
                pass
    below = [pid]
    for process in below:
        below += parents[process]
    return below[1:]


def worker_processes(executor: Executor) -> list[subprocess.Popen]:
    return [worker.process for slot in list(executor.slots) for worker in list(slot.values())]


class Killer(threading.Thread):
    """Sends SIGKILL to a random worker process every `seconds`, at moments that the executor does not choose."""

    def __init__(self, executor: Executor, seconds: float):
        super().__init__(daemon=True)
        self.executor, self.seconds, self.kills, self.done = executor, seconds, 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(self.seconds * random.uniform(0.5, 1.5)):
            try:
                random.choice(worker_processes(self.executor)).kill()
                self.kills += 1
            except (IndexError, RuntimeError):  # none at this moment, or the slots were changing
                pass


def sample(executor: Executor, done: int, seconds: float) -> dict[str, float]:
    workers = [resident_mb(process.pid) for process in worker_processes(executor)] or [0.0]
    row = dict(done=done, trainer_mb=resident_mb("self"), worker_mb=max(workers), workers_mb=sum(workers),
               files=len(os.listdir("/proc/self/fd")), processes=len(descendants(os.getpid())))
    print(f"{seconds:6.0f} s {done:7d} jobs  trainer {row['trainer_mb']:6.1f} MB  worker {row['worker_mb']:5.1f} MB"
          f"  workers {row['workers_mb']:6.1f} MB  files {row['files']:3d}"
          f"  processes {row['processes']:2d}", flush=True)
    return row


def growth(rows: list[dict[str, float]], cached_jobs: int) -> dict[str, tuple[float, float]]:
    """{figure: (median in the first, in the last third of the samples)} once the cache of results was full; {} where
    there are fewer than 6 such samples."""
    rows = [row for row in rows if row["done"] > cached_jobs]
    third = len(rows) // 3
    return {name: (statistics.median(row[name] for row in rows[:third]),
                   statistics.median(row[name] for row in rows[-third:]))
            for name in rows[0] if name != "done"} if third >= 2 else {}


def soak(args: argparse.Namespace) -> bool:
    jobs = seed_jobs(args.data)
    expected, rows, kinds, lost, different = {}, [], collections.Counter(), 0, 0
    with Executor(workers=2, cached_jobs=args.cached_jobs) as executor:
        for count in (1, 2):  # the undisturbed run
            calm = executor.run([Job(job.program, job.inputs, seeds=count) for job in jobs])
            expected |= {(number, count): outcomes for number, outcomes in enumerate(calm)}
        killer = Killer(executor, args.kill) if args.kill else None
        if killer:
            killer.start()
        start = sampled = time.monotonic()
        done, limit = 0, args.seconds or float("inf")
        while done < args.programs and time.monotonic() - start < limit:
            # A step's worth at a time, as a trainer would.
            picks = [(number % len(jobs), 2 if (number + number // len(jobs)) % 5 == 0 else 1)
                     for number in range(done, min(done + args.step, args.programs))]
            batch = [Job(f"{jobs[number].program}\n# {done + index}", jobs[number].inputs, seeds=count)
                     for index, (number, count) in enumerate(picks)]
            came = collections.Counter()
            for index, outcomes in executor.stream(batch):
                came[index] += 1
                kinds.update(outcome.kind for outcome in outcomes)
                if not same_outcomes(outcomes, expected[picks[index]]):
                    different += 1
                    if different <= 10:
                        pairs = zip(outcomes, expected[picks[index]])
                        which, (was, should) = next(row for row in enumerate(pairs) if not same_outcomes(*zip(row[1])))
                        print(f"  run {which} of job {done + index} is {was}, undisturbed {should}", flush=True)
                if time.monotonic() - sampled > args.sample:
                    sampled = time.monotonic()
                    rows.append(sample(executor, done + sum(came.values()), sampled - start))
            lost += sum(came[index] != 1 for index in range(len(batch)))
            done += len(batch)
        seconds = time.monotonic() - start
        if killer:
            killer.done.set()
            killer.join()
        rows.append(sample(executor, done, seconds))
    figures = growth(rows, args.cached_jobs)
    flat = bool(figures)
    for name, (before, after) in figures.items():
        slack = max(4, 0.03 * before) if name.endswith("mb") else 1
        flat &= name == "workers_mb" or after <= before + slack  # how many there are depends on the last kill
        print(f"{name:10} {before:8.1f} -> {after:8.1f}")
    left = descendants(os.getpid())
    verdict = "flat" if flat else "NOT FLAT" if figures else "too short to tell whether flat"
    print(f"{done} jobs in {seconds:.0f} s, {sum(kinds.values())} outcomes {dict(kinds)}; kills"
          f" {killer.kills if killer else 0}; lost {lost}; different {different}; processes left"
          f" {len(left)}; {verdict}")
    return flat and not lost and not different and not left


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("AZR_DATA"), required="AZR_DATA" not in os.environ)
    parser.add_argument("--programs", type=int, default=200_000)
    parser.add_argument("--kill", type=float, default=0, help="seconds between kills of a worker (default: no kills)")
    parser.add_argument("--sample", type=float, default=5, help="seconds between samples")
    parser.add_argument("--seconds", type=float, default=0, help="stop after this time, whatever is done")
    parser.add_argument("--step", type=int, default=1000, help="jobs per call of stream")
    parser.add_argument("--cached-jobs", type=int, default=10_000, help="as of Executor; memory grows until it is full")
    sys.exit(0 if soak(parser.parse_args()) else 1)

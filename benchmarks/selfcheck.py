"""
The data's own answers, judged: whether this machine and this code score as they should, without a model.
"""
import time

from benchmarks import suite
from benchmarks.items import DataError
from benchmarks.judges import readable_tests
from benchmarks.stages import Work, own_answer
from executor import Executor


def selfcheck(works: list[Work], executor: Executor) -> bool:
    """Prints, for every task, how many of the data's own answers pass; whether all do. LiveCodeBench has none to
    check."""
    good = True
    for work in works:
        if work.kind is suite.CONTESTS:
            unread, count = [], 0
            for item in work.items:
                try:
                    count += len(readable_tests(item)[1])
                except (DataError, ValueError) as error:
                    unread.append(f"\n  {item.id} ({error})")
            good &= not unread
            print(f"{work.title}: {len(work.items)} problems, {count} tests can be read" + "".join(unread))
            continue
        start = time.monotonic()
        failed = failures(work, executor)
        good &= not failed
        passed = f"{len(work.items) - len(failed)} of {len(work.items)} pass"
        print(f"{work.title}: {passed}, {time.monotonic() - start:.1f} s" + "".join(f"\n  {line}" for line in failed),
              flush=True)
    return good


def failures(work: Work, executor: Executor) -> list[str]:
    """A line for each item whose own answer does not pass."""
    pairs = [(item, own_answer(work, item)) for item in work.items]
    options = {"whole": True} if work.kind is suite.FUNCTIONS else {}
    # Twelve of CRUXEval's own inputs are expressions such as dict(a=1), which no model's answer may be.
    judgements = work.kind.judge(pairs, executor, work.kind is suite.INPUTS, **options)
    return [f"{item.id} ({judgement.reason} {judgement.detail})".replace(" )", ")")
            for (item, _), judgement in zip(pairs, judgements) if not judgement.ok]

"""
The benchmarks of the paper, as data: their files, and which readers, prompts and judges they have. (Held-out tasks of
our own are in taskfiles.py.)

Order of reading: Kind and Benchmark, the kinds, the table BENCHMARKS, loading. What the table names is in files.py
(addresses), items.py (rows), prompts.py (what is asked, where the answer lies) and judges.py (whether it is right).
"""
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import items, judges, prompts
from benchmarks.files import FILES, File, download
from benchmarks.items import DataError, Item
from benchmarks.judges import Judgement
from benchmarks.prompts import Prompt
from executor import Executor
from runfolder import sha256_of

STYLES = ("azr", "chat", "qwen", "base", "boxed")  # of prompts; every benchmark has all of them
AVERAGE_TEMPERATURE = 0.6  # of the samples that benchmarks with few items are averaged over


@dataclass(frozen=True)
class Kind:
    """What benchmarks whose answers are of one sort have in common."""
    prompts: dict[str, Callable[[Item], Prompt]]               # by style
    find: Callable[[Item, Prompt, str], str | None]            # response -> answer
    judge: Callable[[list[tuple[Item, str]], Executor, bool], list[Judgement]]  # (answers, executor, lenient)
    with_example: dict[str, Callable[[Item], Prompt]] = field(default_factory=dict)  # prompts that can show one

    def ask(self, item: Item, style: str, example: bool = False) -> Prompt:
        """The item's prompt in this style; `example`: with the worked example of training where it has one."""
        return (self.prompts | self.with_example if example else self.prompts)[style](item)


@dataclass(frozen=True)
class Benchmark:
    title: str
    group: str
    kind: Kind
    files: tuple[str, ...]  # names in files.FILES
    read: Callable[[list[dict]], list[Item]]
    count: int           # items; 0: not known beforehand
    version: str
    max_new_tokens: int
    averaged: int = 0    # also this many samples at AVERAGE_TEMPERATURE: too few items for one


# ---------------------------------------------------------------------------------------------------------------------
# The table

FUNCTIONS = Kind(prompts.FUNCTIONS, prompts.find_program, judges.judge_functions)
CONTESTS = Kind(prompts.CONTESTS, prompts.find_program, judges.judge_contests)
OUTPUTS = Kind(prompts.OUTPUTS, prompts.find_output, judges.judge_outputs, prompts.OUTPUTS_WITH_EXAMPLE)
INPUTS = Kind(prompts.INPUTS, prompts.find_input, judges.judge_inputs, prompts.INPUTS_WITH_EXAMPLE)
INTEGERS = Kind(prompts.MATHEMATICS, prompts.find_math, judges.judge_integers)
FORMULAS = Kind(prompts.MATHEMATICS, prompts.find_math, judges.judge_formulas)

HUMANEVALPLUS, CRUXEVAL = "humanevalplus/HumanEvalPlus-v0.1.10.jsonl.gz", "cruxeval/cruxeval.jsonl"
LCB_RELEASES = {  # file: dates of its contests; they are known to the month, so neighbours overlap
    "lcb/test.jsonl": ("2023-05-01", "2024-03-31"), "lcb/test2.jsonl": ("2024-02-01", "2024-05-31"),
    "lcb/test3.jsonl": ("2024-04-01", "2024-07-31"), "lcb/test4.jsonl": ("2024-06-01", "2024-09-30"),
    "lcb/test5.jsonl": ("2024-08-01", "2025-01-31"), "lcb/test6.jsonl": ("2024-12-01", "2025-04-30")}

BENCHMARKS = {
    "humaneval": Benchmark("HumanEval", "", FUNCTIONS, (HUMANEVALPLUS,), items.read_base_functions, 164,
                           "base tests of HumanEval+ v0.1.10", 2048),
    "humanevalplus": Benchmark("HumanEval+", "code", FUNCTIONS, (HUMANEVALPLUS,), items.read_functions, 164, "v0.1.10",
                               2048),
    "mbppplus": Benchmark("MBPP+", "code", FUNCTIONS, ("mbppplus/MbppPlus-v0.2.0.jsonl.gz",), items.read_functions,
                          378, "v0.2.0", 2048),
    "lcb": Benchmark("LiveCodeBench", "code", CONTESTS, tuple(LCB_RELEASES), items.read_contests, 0, "lite", 4096),
    "lcb_execution": Benchmark("LiveCodeBench execution", "reason", OUTPUTS, ("lcb/execution-v2.parquet",),
                               items.read_lcb_execution, 479, "v2", 2048),
    "cruxeval_i": Benchmark("CRUXEval-I", "reason", INPUTS, (CRUXEVAL,), items.read_cruxeval, 800, "1", 2048),
    "cruxeval_o": Benchmark("CRUXEval-O", "reason", OUTPUTS, (CRUXEVAL,), items.read_cruxeval, 800, "1", 2048),
    "aime24": Benchmark("AIME24", "math", INTEGERS, ("math/aime24.jsonl",), items.read_integers, 30, "2024", 4096,
                        averaged=16),
    "aime25": Benchmark("AIME25", "math", INTEGERS, ("math/aime25.jsonl",), items.read_integers, 30, "2025", 4096,
                        averaged=16),
    "amc23": Benchmark("AMC23", "math", INTEGERS, ("math/amc23.jsonl",), items.read_integers, 40, "2023", 4096,
                       averaged=16),
    "math500": Benchmark("MATH500", "math", FORMULAS, ("math/math500.jsonl",), items.read_math500, 500, "PRM800K's",
                         4096),
    "minerva": Benchmark("Minerva", "math", FORMULAS, ("math/minerva_math.jsonl",), items.read_minerva, 272,
                         "OCWCourses", 4096),
    "olympiadbench": Benchmark("OlympiadBench", "math", FORMULAS, ("math/olympiadbench.jsonl",), items.read_olympiad,
                               675, "text, English, mathematics, open", 4096),
}
GROUPS = {group: [name for name, benchmark in BENCHMARKS.items() if benchmark.group == group]
          for group in ("code", "math", "reason")}
GROUPS["all"] = [name for names in list(GROUPS.values()) for name in names]


# ---------------------------------------------------------------------------------------------------------------------
# Loading

EVER = "", "9999"  # a window of contest dates, YYYY-MM-DD, inclusive


def files_of(benchmark: Benchmark, window: tuple[str, str] = EVER) -> list[File]:
    """The files that hold the benchmark's items, of LiveCodeBench those of the window."""
    first, last = window
    return [FILES[name] for name in benchmark.files if name not in LCB_RELEASES
            or LCB_RELEASES[name][0] <= last and first <= LCB_RELEASES[name][1]]


def paths_of(benchmark: Benchmark, data: Path | None, cache: Path,
             window: tuple[str, str] = EVER) -> tuple[dict[Path, File], list[str]]:
    """(the benchmark's files, under `data` if given, else downloaded into `cache`; why others are left out). DataError
    if there is none."""
    found, missing = {}, []
    for file in files_of(benchmark, window):
        path = (data or cache) / file.name
        try:
            if not path.is_file():
                if data:
                    raise DataError(f"{path}: no such file; python eval.py --fetch {data} downloads it where there is a"
                                    " network")
                download(file.url, file.sha256, path)
            found[path] = file
        except DataError as error:
            missing.append(str(error))
    if not found:
        raise DataError(missing[0] if missing else "no release has contests of these dates")
    return found, missing


def load(benchmark: Benchmark, paths: dict[Path, File],
         window: tuple[str, str] = EVER) -> tuple[list[Item], list[dict], list[str]]:
    """(items, [{file, sha256}], warnings). DataError names the file that cannot be read."""
    rows, facts, warnings = [], [], []
    for path, file in paths.items():
        facts.append({"file": file.name, "sha256": sha256_of(path)})
        if file.sha256 and facts[-1]["sha256"] != file.sha256:
            warnings.append(f"{path} is not the file that {benchmark.title} {benchmark.version} is known by (sha256)")
        try:
            rows += items.read_rows(path, window)
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error
    try:
        loaded = benchmark.read(rows)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"{next(iter(paths))}: not a file of {benchmark.title} ({type(error).__name__}: {error})") \
            from error
    if benchmark.count and len(loaded) != benchmark.count:
        warnings.append(f"{benchmark.title} has {benchmark.count} items, these files {len(loaded)}")
    return loaded, facts, warnings

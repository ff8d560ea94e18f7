"""
The benchmarks of the paper, as data: where their files lie and come from, and which readers, prompts and judges they
have. (Held-out tasks of our own are in taskfiles.py.)

Order of reading: Kind and Benchmark, the kinds, the files with their sources, the table BENCHMARKS, loading. What the
table names is in items.py (rows), prompts.py (what is asked, where the answer lies) and judges.py (whether it is
right).
"""
import os
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from benchmarks import items, judges, prompts
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


class File(NamedTuple):
    name: str         # its path under --data
    url: str
    sha256: str = ""  # empty: not known


@dataclass(frozen=True)
class Benchmark:
    title: str
    group: str
    kind: Kind
    files: tuple[File, ...]
    read: Callable[[list[dict]], list[Item]]
    count: int           # items; 0: not known beforehand
    version: str
    max_new_tokens: int
    averaged: int = 0    # also this many samples at AVERAGE_TEMPERATURE: too few items for one


# ---------------------------------------------------------------------------------------------------------------------
# The table

FUNCTIONS = Kind(prompts.FUNCTIONS, prompts.find_program, judges.judge_functions)
CONTESTS = Kind(prompts.CONTESTS, prompts.find_program, judges.judge_contests)
OUTPUTS = Kind(prompts.OUTPUTS, prompts.find_output, judges.judge_outputs)
INPUTS = Kind(prompts.INPUTS, prompts.find_input, judges.judge_inputs)
INTEGERS = Kind(prompts.MATHEMATICS, prompts.find_math, judges.judge_integers)
FORMULAS = Kind(prompts.MATHEMATICS, prompts.find_math, judges.judge_formulas)

EVALPLUS = "https://github.com/evalplus/{0}plus_release/releases/download/{1}/{2}.jsonl.gz"
LCB = "https://huggingface.co/datasets/livecodebench/{}/resolve/main/{}"
HUMANEVALPLUS_FILE = File("humanevalplus/HumanEvalPlus-v0.1.10.jsonl.gz",
                          EVALPLUS.format("humaneval", "v0.1.10", "HumanEvalPlus"),
                          "272720b90ac375502c8ed23cd791c2a93dfb22a911641a494da74a426c09f101")
MBPPPLUS_FILE = File("mbppplus/MbppPlus-v0.2.0.jsonl.gz", EVALPLUS.format("mbpp", "v0.2.0", "MbppPlus"),
                     "af43697e8791c4c149bdfd6b489d8b5412507551ac20e28a439f650b8225db63")
LCB_FILES = tuple(File(f"lcb/{name}.jsonl", LCB.format("code_generation_lite", f"{name}.jsonl"))
                  for name in ("test5", "test6"))
LCB_EXECUTION_FILE = File("lcb/execution-v2.parquet", LCB.format("execution-v2", "data/test-00000-of-00001.parquet"))
CRUXEVAL_FILE = File("cruxeval/cruxeval.jsonl",
                     "https://raw.githubusercontent.com/facebookresearch/cruxeval/main/data/cruxeval.jsonl",
                     "8368b81047dc5014e4caf5a2f97604eff7644e0ecd7415e3ceeb184bbc2e0c96")
QWEN_MATH = "https://raw.githubusercontent.com/QwenLM/Qwen2.5-Math/main/evaluation/data/{}/test.jsonl"
MATH_FILES = {name: File(f"math/{name}.jsonl", QWEN_MATH.format(name), sha256) for name, sha256 in {
    "aime24": "af2b8bd2aa911b6333ad0df32f3ca05c7ae8ed10f1731f4372c8ae26990bf7ac",
    "aime25": "",
    "amc23": "43707e1ca784602d8479de24ee8ce36609dbebc46dd152b0b12a46611aa898a4",
    "math500": "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132",
    "minerva_math": "0e656b430d3a0a1dab6aa853f453ba3805e28e2cabe4fc72486a897cc09d8ba2",
    "olympiadbench": "bb8c1e38a16ea9eacb77530315a674d883f267fbff79183effc53681b4fcc416"}.items()}

BENCHMARKS = {
    "humaneval": Benchmark("HumanEval", "", FUNCTIONS, (HUMANEVALPLUS_FILE,), items.read_base_functions, 164,
                           "base tests of HumanEval+ v0.1.10", 2048),
    "humanevalplus": Benchmark("HumanEval+", "code", FUNCTIONS, (HUMANEVALPLUS_FILE,), items.read_functions, 164,
                               "v0.1.10", 2048),
    "mbppplus": Benchmark("MBPP+", "code", FUNCTIONS, (MBPPPLUS_FILE,), items.read_functions, 378, "v0.2.0", 2048),
    "lcb": Benchmark("LiveCodeBench", "code", CONTESTS, LCB_FILES, items.read_contests, 0, "lite, test5 and test6",
                     4096),
    "lcb_execution": Benchmark("LiveCodeBench execution", "reason", OUTPUTS, (LCB_EXECUTION_FILE,),
                               items.read_lcb_execution, 479, "v2", 2048),
    "cruxeval_i": Benchmark("CRUXEval-I", "reason", INPUTS, (CRUXEVAL_FILE,), items.read_cruxeval, 800, "1", 2048),
    "cruxeval_o": Benchmark("CRUXEval-O", "reason", OUTPUTS, (CRUXEVAL_FILE,), items.read_cruxeval, 800, "1", 2048),
    "aime24": Benchmark("AIME24", "math", INTEGERS, (MATH_FILES["aime24"],), items.read_integers, 30, "2024", 4096,
                        averaged=16),
    "aime25": Benchmark("AIME25", "math", INTEGERS, (MATH_FILES["aime25"],), items.read_integers, 30, "2025", 4096,
                        averaged=16),
    "amc23": Benchmark("AMC23", "math", INTEGERS, (MATH_FILES["amc23"],), items.read_integers, 40, "2023", 4096,
                       averaged=16),
    "math500": Benchmark("MATH500", "math", FORMULAS, (MATH_FILES["math500"],), items.read_math500, 500, "PRM800K's",
                         4096),
    "minerva": Benchmark("Minerva", "math", FORMULAS, (MATH_FILES["minerva_math"],), items.read_minerva, 272,
                         "OCWCourses", 4096),
    "olympiadbench": Benchmark("OlympiadBench", "math", FORMULAS, (MATH_FILES["olympiadbench"],), items.read_olympiad,
                               675, "text, English, mathematics, open", 4096),
}
GROUPS = {group: [name for name, benchmark in BENCHMARKS.items() if benchmark.group == group]
          for group in ("code", "math", "reason")}
GROUPS["all"] = [name for names in list(GROUPS.values()) for name in names]


# ---------------------------------------------------------------------------------------------------------------------
# Loading

def paths_of(benchmark: Benchmark, data: Path | None, cache: Path) -> list[Path]:
    """The benchmark's files, under `data` if given, else downloaded into `cache`. DataError if there is none."""
    paths = []
    for name, url, sha256 in benchmark.files:
        path = (data or cache) / name
        if not path.is_file():
            if data:
                raise DataError(f"{path}: no such file ({benchmark.title}); python eval.py --fetch {data} downloads it"
                                " where there is a network")
            download(url, sha256, path)
        paths.append(path)
    return paths


def download(url: str, sha256: str, path: Path) -> None:
    """All of the file or nothing. DataError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    incomplete = path.with_name(path.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=60) as response, open(incomplete, "wb") as out:
            while block := response.read(1 << 20):
                out.write(block)
            if out.tell() < int(response.headers["Content-Length"] or 0):
                raise OSError("the connection ended early")
    except (OSError, ValueError, HTTPException) as error:
        raise DataError(f"{url}: cannot be downloaded ({error}); on a connected machine run python eval.py --fetch DIR,"
                        " then give --data DIR here") from error
    if sha256 and (actual := sha256_of(incomplete)) != sha256:
        raise DataError(f"{url}: its sha256 is {actual}, not {sha256}; it was left at {incomplete}")
    os.replace(incomplete, path)


def load(benchmark: Benchmark, paths: list[Path]) -> tuple[list[Item], list[dict], list[str]]:
    """(items, [{file, sha256}], warnings). DataError names the file that cannot be read."""
    rows, facts, warnings = [], [], []
    for path, (name, _, sha256) in zip(paths, benchmark.files):
        facts.append({"file": name, "sha256": sha256_of(path)})
        if sha256 and facts[-1]["sha256"] != sha256:
            warnings.append(f"{path} is not the file that {benchmark.title} {benchmark.version} is known by (sha256)")
        try:
            rows += items.read_rows(path)
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error
    try:
        loaded = benchmark.read(rows)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"{paths[0]}: not a file of {benchmark.title} ({type(error).__name__}: {error})") from error
    if benchmark.count and len(loaded) != benchmark.count:
        warnings.append(f"{benchmark.title} has {benchmark.count} items, these files {len(loaded)}")
    return loaded, facts, warnings

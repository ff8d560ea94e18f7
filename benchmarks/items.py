"""
The problems of the benchmarks: how their files are read, and what a row of each becomes.

Order of reading: Item, files, functions (HumanEval, MBPP+), values and mathematics, contests with their packed tests.
"""
import base64
import gzip
import io
import json
import pickle
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from command import UserError

MAX_TESTS = 1 << 30  # bytes of a contest problem's unpacked tests


class DataError(UserError):
    """A benchmark file is missing or not what it should be; the text is one line for the user."""


@dataclass(frozen=True)
class Item:
    """One problem. `cluster` names what it shares with others: whether they are solved is not independent."""
    id: str
    row: dict
    cluster: str = ""


def read_rows(path: Path, window: tuple[str, str] = ("", "9999")) -> list[dict]:
    """The rows of a file; of those with a contest's date only the ones in the window (inclusive, YYYY-MM-DD), since all
    of LiveCodeBench takes 4.5 GB."""
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise ValueError("parquet needs pyarrow: pip install pyarrow, or give the rows as .jsonl") from error
        return parquet.read_table(path).to_pylist()
    rows = []
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                rows += [row for row in [json.loads(line)] if in_window(row, *window)] if line.strip() else []
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
    return rows


def in_window(row: dict, first: str, last: str) -> bool:
    date = str(isinstance(row, dict) and row.get("contest_date") or "")[:10]
    return not date or first <= date <= last


# ---------------------------------------------------------------------------------------------------------------------
# Functions: rows of HumanEval+ and MBPP+

def deep_tuple(value: object) -> object:
    return tuple(map(deep_tuple, value)) if isinstance(value, list) else value


def first_tuple(args: list) -> list:
    return [tuple(args[0]), *args[1:]]


# How JSON's lists become the tuples, sets and complex numbers that MBPP+ means, by task number (facts of the data set;
# as evalplus restores them).
RESTORE = (
    ((2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809),
     lambda args: [tuple(arg) for arg in args]),
    ((63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780),
     lambda args: [[tuple(item) for item in arg] for arg in args]),
    ((75, 413, 444, 753), lambda args: [[tuple(item) for item in args[0]], *args[1:]]),
    ((106, 750), lambda args: [args[0], tuple(args[1])]),
    ((250, 307, 405, 446, 617, 720, 763, 808), first_tuple),
    ((259, 401, 445), lambda args: [tuple(tuple(item) for item in arg) for arg in args]),
    ((278, 580, 615, 791), lambda args: [deep_tuple(arg) for arg in args]),
    ((115,), lambda args: [[set(item) if isinstance(item, list) and item else {} for item in args[0]]]),
    ((124,), lambda args: [float(args[0]), complex(args[1])]),
    ((252,), lambda args: [complex(args[0])]),
    ((722,), lambda args: [{key: tuple(value) for key, value in args[0].items()}, *args[1:]]),
)
RESTORERS = {f"Mbpp/{number}": restore for numbers, restore in RESTORE for number in numbers}


def read_functions(rows: list[dict]) -> list[Item]:
    items = []
    for row in rows:
        restore = RESTORERS.get(row["task_id"], list)
        tests = {name: [tuple(restore(args)) for args in list(row[name])] for name in ("base_input", "plus_input")}
        items.append(Item(row["task_id"], row | tests))
    return items


def read_base_functions(rows: list[dict]) -> list[Item]:
    """HumanEval itself: the tests without evalplus' additions."""
    return read_functions([row | {"plus_input": []} for row in rows])


# ---------------------------------------------------------------------------------------------------------------------
# Values and mathematics: an answer is stated

def read_cruxeval(rows: list[dict]) -> list[Item]:
    return [Item(row["id"], {"code": row["code"], "input": row["input"], "output": row["output"]}) for row in rows]


def read_lcb_execution(rows: list[dict]) -> list[Item]:
    return [Item(str(row["id"]), {"code": row["code"], "call": row["input"], "output": row["output"]},
                 str(row.get("problem_id", row["question_id"]))) for row in rows]


def read_integers(rows: list[dict]) -> list[Item]:
    if wrong := [row["answer"] for row in rows if not float(row["answer"]).is_integer()]:
        raise ValueError(f"{wrong[0]} is no integer")
    return [Item(str(row.get("id", i)), {"question": row.get("problem") or row["question"],
                                         "gold": str(int(float(row["answer"])))}) for i, row in enumerate(rows)]


def read_math500(rows: list[dict]) -> list[Item]:
    return [Item(row["unique_id"], {"question": row["problem"], "gold": row["answer"]}) for row in rows]


def read_minerva(rows: list[dict]) -> list[Item]:
    golds = [boxed(row["solution"]) for row in rows]
    if None in golds:
        raise ValueError("a solution without \\boxed")
    return [Item(str(row["idx"]), {"question": row["problem"], "gold": gold}) for row, gold in zip(rows, golds)]


def read_olympiad(rows: list[dict]) -> list[Item]:
    return [Item(str(row["id"]), {"question": row["question"], "gold": row["final_answer"][0]}) for row in rows]


BOX = re.compile(r"\\boxed\s*+(\{|[^\s{$](?:(?!\\[)\]]|\\boxed)[^$\n])*+)")


def boxed(text: str) -> str | None:
    """What the last closed \\boxed{...} holds, or what follows a \\boxed without braces to the end of the formula or
    line; one pass, since a model may write a thousand that are not closed."""
    boxes = {match.start(1): match for match in BOX.finditer(text)}
    opened, last = [], None
    for at, character in enumerate(text):
        if character == "{":
            opened.append(at)
        elif character == "}" and opened:
            start = opened.pop()
            if start in boxes and (last is None or start > last[0]):
                last = start, text[start + 1:at]
    bare = [(start, match[1]) for start, match in boxes.items() if text[start] != "{"]
    if bare and (last is None or bare[-1][0] > last[0]):
        last = bare[-1][0], bare[-1][1].rstrip(" .,;")
    return last and last[1].strip()


# ---------------------------------------------------------------------------------------------------------------------
# Contests

def read_contests(rows: list[dict]) -> list[Item]:
    fields = ("question_content", "starter_code", "public_test_cases", "private_test_cases", "contest_date", "metadata")
    return [Item(row["question_id"], {name: row[name] for name in fields}) for row in rows]


class Plain(pickle.Unpickler):
    """Loads pickles of plain data: no name is ever looked up, so nothing can be called."""
    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"the pickle names {module}.{name}")


def contest_tests(row: dict) -> list[tuple[str, str]]:
    """[(input, output)]; the private ones are JSON, or base64 of zlib of a pickled JSON text. DataError."""
    private = row["private_test_cases"]
    try:
        if not private.lstrip().startswith("["):
            unzip = zlib.decompressobj()
            data = unzip.decompress(base64.b64decode(private), MAX_TESTS)
            private = Plain(io.BytesIO(data)).load()
        tests = json.loads(row["public_test_cases"]) + json.loads(private)
        return [(test["input"], test["output"]) for test in tests]
    except (pickle.UnpicklingError, ValueError, TypeError, KeyError, EOFError, zlib.error, AttributeError) as error:
        raise DataError(f"LiveCodeBench: tests that cannot be read ({type(error).__name__}: {error})") from error

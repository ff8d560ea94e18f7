"""
What runs beside a benchmark's solution, in its executor process: preloaded there by
`Executor(preload=("benchmarks.harness",))`.

Nothing here knows an expected value, and nothing of what it returns is believed: a solution that takes this module over
can forge its own answer, which it may choose anyway. Values come back as `pack` writes them and are compared in the
trainer's process.
"""
import ast
import builtins
import hashlib
import importlib
import io
import marshal
import math
import os
import sys
import threading
import warnings
from decimal import Decimal
from fractions import Fraction
from itertools import chain

from sandbox.parsing import MAX_INT_BITS, parse_program

# What solutions may import, whatever is scored: the standard library but for what draws, installs, tests or only
# greets, and numpy where it is installed, as in the official runners. Later no file can be opened.
LEFT_OUT = {"antigravity", "distutils", "ensurepip", "idlelib", "lib2to3", "pip", "test", "this", "tkinter", "turtle",
            "turtledemo", "venv"}
MODULES = sorted(name for name in sys.stdlib_module_names - LEFT_OUT if not name.startswith("_"))
PARTS = ("concurrent.futures", "collections.abc", "email.message", "html.parser", "importlib.util", "json.decoder",
         "logging.handlers", "multiprocessing.pool", "os.path", "unittest.mock", "urllib.parse", "urllib.request",
         "xml.dom.minidom", "xml.etree.ElementTree", "_strptime")  # of packages; datetime wants the last
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start some, which a forked process lacks
with warnings.catch_warnings(action="ignore"):  # of modules that a later Python will not have
    for _name in (*MODULES, *PARTS, "numpy"):
        try:
            importlib.import_module(_name)
        except Exception:  # of another system, such as winreg, or not installed
            pass
LOADED = set(sys.modules) | {"benchmarks.harness"}


def hide_others() -> None:
    """Takes away what was loaded for other tasks, such as sympy, so that no verdict depends on them."""
    for name in set(sys.modules) - LOADED:
        del sys.modules[name]


ROOM = 40_000  # of a packed value, in characters roughly; the executor sends 64,000 of JSON
DEEPEST = 40   # nested containers; the executor sends 50 levels
PIECE = 4096   # elements hashed at once
EXACT = {type(None), int, str, bytes}  # equal ones have one form; True, 1 and 1.0 have three
KEPT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
# Contest solutions lean on what their site has imported already: the names and the recursion limit are those of
# LiveCodeBench's runner (lcb_runner/evaluation/testing_util.py), in its order, since names hide each other.
STARRED = ("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics",
           "itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing")
PRELUDE = "".join(f"from {name} import *\n" for name in STARRED) + "".join(
    f"import {name}\n" for name in STARRED if name not in ("builtins", "typing")) + "sys.setrecursionlimit(50000)\n"


# ---------------------------------------------------------------------------------------------------------------------
# Values

def plain(value: object) -> object:
    """The value in exact builtin types, where `==` says the same of it: a Counter becomes a dict, a namedtuple a tuple.
    TypeError for what no reference solution returns (iterators, ranges, objects)."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str, bytes, complex):
        return value
    for base in (str, bytes, int, float, complex):
        if isinstance(value, base):
            return base(value)
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)([plain(item) for item in value])
    if isinstance(value, (set, frozenset)):
        return (frozenset if isinstance(value, frozenset) else set)([plain(item) for item in value])
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (Decimal, Fraction)) and value == (number := float(value)):
        return number
    if kind.__module__ == "numpy" and getattr(value, "shape", None) == ():  # a number of numpy's
        return plain(value.item())
    raise TypeError(f"{kind.__name__} is not plain data")


def weight(value: object, depth: int = 0) -> float:
    """About the characters that sending a value takes; infinite for what cannot be sent at any length."""
    if isinstance(value, int):
        return math.inf if value.bit_length() > MAX_INT_BITS else 4 + value.bit_length() / 3
    if isinstance(value, (str, bytes)):
        return 4 + len(value) * (1 if isinstance(value, str) and value.isascii() else 6)
    if not isinstance(value, (list, tuple, set, frozenset, dict)):
        return 50 if isinstance(value, complex) else 25
    if depth == DEEPEST or len(value) > ROOM:
        return math.inf
    items = [*value, *value.values()] if isinstance(value, dict) else value
    return 8 + sum(weight(item, depth + 1) for item in items)


def ordered(value: object) -> object:
    """The value with sets and dicts as sorted lists and whole numbers as ints, so that equal ones have equal bytes."""
    if isinstance(value, complex) and value.imag == 0:
        value = value.real
    if isinstance(value, bool) or isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, (set, frozenset)):
        return "set", sorted(map(binary, value))
    if isinstance(value, dict):
        return "dict", sorted((binary(key), binary(item)) for key, item in value.items())
    return type(value)([ordered(item) for item in value]) if isinstance(value, (list, tuple)) else value


def simple(items: list | tuple) -> bool:
    """Whether marshal writes the items as they are: EXACT ones, or lists and tuples of those."""
    kinds = set(map(type, items))
    return kinds <= EXACT or kinds <= {list, tuple} and set(map(type, chain.from_iterable(items))) <= EXACT


def binary(value: object) -> bytes:
    # marshal takes time in proportion to long ints, decimal text in their square; version 2 is the last whose bytes do
    # not depend on which objects are shared.
    if type(value) in (list, tuple) and set(map(type, value)) <= {int, float}:  # HumanEval/130 has a million of them
        value = type(value)([int(x) if type(x) is float and x.is_integer() else x for x in value])
    elif not (type(value) in (list, tuple) and simple(value)):
        value = ordered(plain(value))
    return marshal.dumps(value, 2)


def hash_of(value: object) -> str:
    """A hash of the value; long lists go in pieces, since copies of a gigabyte (Mbpp/255) would not fit
    into the memory limit."""
    sha256 = hashlib.sha256()
    if isinstance(value, (list, tuple)):
        sha256.update(b"list" if isinstance(value, list) else b"tuple")
        for start in range(0, len(value), PIECE):
            sha256.update(binary(value[start:start + PIECE]))
    else:
        sha256.update(binary(value))
    return sha256.hexdigest()


def pack(value: object) -> list:
    """["value", plain data], or ["sha256", hex] of data too long to send, equal where `==` holds."""
    if weight(value) <= ROOM:
        return ["value", plain(value)]
    return ["sha256", hash_of(value)]


# ---------------------------------------------------------------------------------------------------------------------
# Solutions

spaces: dict[str, dict] = {}  # this process runs one solution on many inputs: defined once, as evalplus does


def definitions(source: str) -> ast.Module:
    """The longest beginning of a program that parses, without the tests and prints at its top level (evalplus' sanitize
    drops those too); all of it where nothing would be left. SyntaxError."""
    lines = source.split("\n")
    for end in range(len(lines), max(0, len(lines) - 300), -1):
        try:
            tree = parse_program("\n".join(lines[:end]))
        except (SyntaxError, ValueError):
            continue
        tree.body = [node for node in tree.body if isinstance(node, KEPT)]
        if tree.body:
            break
    else:
        return parse_program(source)
    # What no definition needs may fail: examples such as n = int(input()), packages that are not here.
    for i, node in enumerate(tree.body):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and \
                getattr(node, "module", "") != "__future__":
            handler = ast.ExceptHandler(ast.Name("Exception", ast.Load()), None, [ast.Pass()])
            tree.body[i] = ast.Try([node], [handler], [], [])
    return ast.fix_missing_locations(tree)


def space_of(source: str, whole: bool) -> dict:
    if source not in spaces:
        hide_others()
        space = {"__name__": "program"}
        exec(compile(source if whole else definitions(source), "<program>", "exec", dont_inherit=True), space)
        spaces[source] = space
    return spaces[source]


def call(source: str, entry: str, arguments: tuple, whole: bool = True, form: str = "") -> list:
    """pack(entry(*arguments)) of the program. `whole`: as it is, else only its definitions. `form` "presence": whether
    the result is anything, for functions that return matches; "elements": in a list, for those whose order is free."""
    value = space_of(source, whole)[entry](*arguments)
    if form == "presence" and not isinstance(value, bool):
        value = value is not None
    elif form == "elements" and not isinstance(value, (list, tuple, set, frozenset)):
        value = list(value)
    return pack(value)


def call_method(source: str, name: str, arguments: tuple) -> list:
    """pack(Solution().name(*arguments)), or of the function of that name: a LeetCode problem's way to be answered."""
    space = space_of(PRELUDE + source, True)
    target = space["Solution"]() if "Solution" in space else None
    value = (getattr(target, name) if target else space[name])(*arguments)
    return pack(list(value) if isinstance(value, tuple) else value)


def run_script(source: str, text: str) -> list:
    """pack of what the program prints when `text` is its standard input, blanks at line ends stripped; however it
    ends, but for an exception."""
    hide_others()
    stdin, stdout = (io.TextIOWrapper(io.BytesIO(data), encoding="utf-8") for data in (text.encode(), b""))
    real_open = open
    # Contest programs also read file 0, which in this process is empty.
    builtins.open = lambda file, *rest, **more: stdin if file in (0, "/dev/stdin") else real_open(file, *rest, **more)
    sys.stdin, sys.stdout = stdin, stdout
    # Threads, which some start for the sake of a larger stack, are not allowed here: they run where they start.
    threading.Thread.start, threading.Thread.join = threading.Thread.run, lambda thread, timeout=None: None
    try:
        exec(compile(PRELUDE + source, "<program>", "exec", dont_inherit=True),
             {"__name__": "__main__", "exit": sys.exit, "quit": sys.exit})
    except SystemExit:
        pass
    stdout.flush()
    return pack("\n".join(map(str.strip, stdout.buffer.getvalue().decode().strip().split("\n"))))


# ---------------------------------------------------------------------------------------------------------------------
# Answers that are expressions, for parity with the official scorers (--lenient). Such an answer can cheat: what it
# does to f's result is its own affair.

def lenient_value(text: str) -> list:
    return pack(eval(text.strip(), {}))


def lenient_call(code: str, text: str) -> list:
    space: dict = {}
    exec(code, space)
    return pack(eval(f"f({text.strip()}\n)", space))

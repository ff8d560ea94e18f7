"""
What the report measures of a program beyond its text. `measure` parses and runs model text, so it is only ever called
inside a child of the executor, one program a child:

    with Executor(preload=("report.measure",)) as executor:
        executor.run([Job("from report.measure import measure", ((program, input_text),), "measure")])
"""
import ast
import copy
import hashlib
import sys

from sandbox.parsing import parse_arguments, parse_program, tree_key, walk

try:
    from radon.complexity import cc_visit_ast
    from radon.metrics import h_visit_ast
except ImportError:  # the report says so, and goes without the two measures
    cc_visit_ast = h_visit_ast = None

MOST_LINES = 20_000   # executed lines after which a call is stopped; a traced line takes about a microsecond
BITS = 1024           # of the fingerprint: small programs have below 100 trigrams, so few of them collide
# The same inputs for all programs with parameters of the same types: only so can behaviours be compared.
PROBES = {
    int: [0, 1, 2, -3, 7, 10, 25, 100],
    float: [0.0, 1.0, -1.5, 2.25, 7.0, 0.1, 33.3, 100.0],
    str: ["", "a", "ab", "hello", "ABBA", "a1 b2", "zyxw", "level"],
    bool: [False, True] * 4,
    (list, int): [[], [1], [2, 1], [3, 3, 3], [5, -1, 4], [10, 20, 30, 40], [0, 0, 1], [9, 8, 7, 6, 5]],
    (list, str): [[], ["a"], ["b", "a"], ["x", "x", "x"], ["ab", "", "c"], ["one", "two", "three"], ["A", "a"], ["z"]],
}


class TooLong(BaseException):
    """More lines than MOST_LINES."""


def measure(program: str, text: str) -> dict:
    """Of a valid task's program and the text of its input. key: the program up to names (parsing.tree_key); cyclomatic:
    McCabe's number, summed over functions; halstead: volume in bits; executed: lines run on that input (None above
    MOST_LINES); behaviour: a hash of what it does on the probe inputs; fingerprint: BITS bits as hex, which of its
    syntax tree's trigrams there are."""
    tree = parse_program(program)
    facts = {"cyclomatic": None, "halstead": None}
    if cc_visit_ast:
        facts["cyclomatic"] = sum(block.complexity for block in cc_visit_ast(tree))
        facts["halstead"] = round(h_visit_ast(tree).total.volume, 1)
    facts["key"] = tree_key(walk(tree))
    facts["fingerprint"] = fingerprint(tree)
    code = compile(program, "<program>", "exec", dont_inherit=True)
    args = parse_arguments(text)
    lines, _ = call_traced(code, args)
    facts["executed"] = lines if lines <= MOST_LINES else None
    seen = [call_traced(code, copy.deepcopy(args))[1] for args in probes(args)]
    facts["behaviour"] = short_hash([type(value).__name__ for value in args], seen)
    return facts


def short_hash(*values) -> str:
    return hashlib.sha256(repr(values).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def call_traced(code, args: tuple) -> tuple[int, str]:
    """(lines executed in the program, its value as text or the kind of its failure)."""
    lines = 0

    def trace(frame, event, arg):
        nonlocal lines
        if frame.f_code.co_filename != "<program>":
            return None
        lines += event == "line"
        if lines > MOST_LINES:
            raise TooLong
        return trace

    namespace = {"__name__": "program"}
    try:
        exec(code, namespace)
        sys.settrace(trace)
        value = repr(namespace["f"](*args))[:2_000]
        return lines, value
    except BaseException as error:
        return lines, type(error).__name__
    finally:
        sys.settrace(None)


def probes(args: tuple) -> list[tuple]:
    columns = []
    for position, value in enumerate(args):
        kind = type(value)
        if kind is list and value and len(set(map(type, value))) == 1:
            kind = list, type(value[0])
        column = PROBES.get(kind, [value] * 8)
        columns.append(column[position:] + column[:position])  # not the same value for every parameter
    return list(zip(*columns))


def fingerprint(tree: ast.AST) -> str:
    """Of a tree with renamed variables (tree_key has done it), constants by their type only."""
    labels, bits = [], 0

    def walk(node):
        name = getattr(node, "id", getattr(node, "attr", getattr(node, "arg", "")))
        value = type(node.value).__name__ if isinstance(node, ast.Constant) else name
        labels.append(f"{type(node).__name__} {value if isinstance(value, str) else ''}")
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.expr_context):
                walk(child)
        labels.append("end")
    walk(tree)
    for trigram in zip(labels, labels[1:], labels[2:]):
        bits |= 1 << int(short_hash(trigram), 16) % BITS
    return f"{bits:0{BITS // 4}x}"

"""Reading model text with Python's own parser: literals, arguments of a call, what a program binds and imports.

The parser is C code that deep or odd text has crashed before, so the trainer never runs these functions on text that a
model wrote: `tasks.read` has an executor process do it, as a job whose input is the text. Only trusted text (our own
grammar, what our own `show` wrote) is parsed in place. Hence: plain data in and out.
"""
import ast
import hashlib
import warnings

from sandbox import determinism
from sandbox.determinism import Refused, judge, watched  # noqa: F401 (a reader)
from sandbox.flipped import flipped  # noqa: F401 (a reader)

MAX_TEXT = 20_000  # characters of a literal
MAX_DEPTH = 50  # nested containers
MAX_INT_BITS = 14_000  # stays below CPython's 4,300-digit limit, so that repr never fails

# ----------------------------------------------------------------------------------------------------------------
# Literals

NAMES = {"nan": float("nan"), "inf": float("inf")}  # and what repr writes for such complex numbers:
NAMES |= {"nanj": complex(0, NAMES["nan"]), "infj": complex(0, NAMES["inf"])}


def literal(node: ast.expr, depth: int = MAX_DEPTH):
    match node:
        case ast.Constant(value=value) if value is None or type(value) in (bool, int, float, str, complex, bytes):
            if type(value) is int and value.bit_length() > MAX_INT_BITS:
                raise ValueError("integer too long")
            return value
        case ast.Name(id=name) if name in NAMES:
            return NAMES[name]
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value="nan" | "inf" | "-inf" as text)],
                      keywords=[]):
            return float(text)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            value = literal(operand, depth)
            if type(value) in (int, float, complex):
                return -value if isinstance(node.op, ast.USub) else value
            raise ValueError("sign before something that is not a number")
        case ast.BinOp(op=ast.Add() | ast.Sub(), left=left, right=ast.Constant() | ast.Name()):
            real, imaginary = literal(left, depth), literal(node.right, depth)
            if type(real) in (int, float) and type(imaginary) is complex:
                sign = -1 if isinstance(node.op, ast.Sub) else 1
                return complex(real, sign * imaginary.imag)
            raise ValueError("arithmetic is not a literal")
    if depth == 0:
        raise ValueError("nested too deeply")
    match node:
        case ast.List(elts=items):
            return [literal(item, depth - 1) for item in items]
        case ast.Tuple(elts=items):
            return tuple(literal(item, depth - 1) for item in items)
        case ast.Set(elts=items):
            return {literal(item, depth - 1) for item in items}
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {literal(k, depth - 1): literal(v, depth - 1) for k, v in zip(keys, values)}
        case ast.Call(func=ast.Name(id="set"), args=[], keywords=[]):
            return set()
        case ast.Call(func=ast.Name(id="frozenset"), args=[], keywords=[]):
            return frozenset()
        case ast.Call(func=ast.Name(id="frozenset"), keywords=[],
                      args=[ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items)]):
            return frozenset(literal(item, depth - 1) for item in items)
    raise ValueError(f"{type(node).__name__} is not a literal")


def parse_expression(text: str, before: str, after: str, read):
    """read(expression node) of `before + text + after`; every failure becomes ValueError."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"longer than {MAX_TEXT} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes are the model's business
            return read(ast.parse(before + text.strip() + after, mode="eval").body)
    except SyntaxError:
        raise ValueError("not a Python expression") from None
    except (RecursionError, MemoryError):
        raise ValueError("too complex") from None
    except (TypeError, OverflowError) as error:  # unhashable element, integer too big for a float
        raise ValueError(str(error)) from None


def parse_literal(text: str):
    """The value of a Python literal, without evaluating anything; ValueError says why not.

    Besides what ast.literal_eval takes: nan, inf, float('nan' | 'inf' | '-inf'), frozenset(...)."""
    return parse_expression(text, "", "", literal)


def call_arguments(node: ast.expr) -> tuple:
    match node:
        case ast.Call(func=ast.Name(id="f"), args=args, keywords=[]):
            return tuple(literal(arg) for arg in args)
    raise ValueError("not the positional arguments of one call")


def parse_arguments(text: str) -> tuple:
    """The tuple of values in `1, [2]` as in f(1, [2]); ValueError for anything else."""
    # The newline ends a trailing comment. `1) or (True` parses, but not as one call of f.
    return parse_expression(text, "f(", "\n)", call_arguments)


def call_and_keywords(node: ast.expr) -> tuple[tuple, dict]:
    match node:
        case ast.Call(func=ast.Name(id="f"), args=[ast.Call(func=ast.Name(id="f")) as inner], keywords=[]):
            return call_and_keywords(inner)
        case ast.Call(func=ast.Name(id="f"), args=args, keywords=keywords) if all(word.arg for word in keywords):
            return tuple(map(literal, args)), {word.arg: literal(word.value) for word in keywords}
    raise ValueError("not the arguments of one call")


def parse_call(text: str) -> tuple[tuple, dict]:
    """(arguments, keyword arguments), literals all, of `1, x=[2]` or of `f(1, x=[2])`; ValueError for anything else."""
    return parse_expression(text, "f(", "\n)", call_and_keywords)


# ----------------------------------------------------------------------------------------------------------------
# Programs

def parse_program(program: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in model text are not news
        return ast.parse(program)


def inspect_program(program: str) -> dict:
    """What there is to know of a program without running it: `key` (tree_key), `depth` (statements without defs and
    returns: the nano preset's measure of difficulty), `reason`, why the gate refuses it, or "", with a sentence `why`,
    and `may_show`, what may show in its values besides (determinism.py)."""
    facts = {"key": "", "depth": 0, "reason": "", "why": "", "may_show": ""}
    try:
        tree = parse_program(program)
        nodes = walk(tree)
        facts["depth"] = sum(isinstance(node, ast.stmt) and not isinstance(node, (ast.FunctionDef, ast.Return))
                             for node in nodes)
        try:
            facts["may_show"] = judge(tree)
        except Refused as refused:
            facts["reason"], facts["why"] = refused.args
        facts["key"] = tree_key(nodes)  # last: it renames what the program binds
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else ""
        return facts | {"key": "", "depth": 0, "reason": "does not parse", "why": why}
    if not any(isinstance(node, ast.FunctionDef) and node.name == "f" for node in tree.body):
        facts |= {"reason": "no f", "why": ""}
    return facts


# The syntax nodes that bind a name, and those that only mention one; the attribute that holds it.
BINDS = determinism.BINDS | {ast.alias: "asname"}
MENTIONS = BINDS | {ast.Name: "id", ast.keyword: "arg"}


def tree_key(nodes: list[ast.AST]) -> str:
    """A hash of the program up to layout, comments, docstrings and the names it binds, of what `walk` gives of its
    tree, which is renamed in place."""
    names = {"f": "f"}
    for node in nodes:  # first what the program binds, so that builtins keep their names
        bound = node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else \
            getattr(node, BINDS.get(type(node), ""), None)
        if bound is not None:
            names.setdefault(bound, f"v{len(names)}")
    for node in nodes:
        attribute = MENTIONS.get(type(node))
        if attribute and getattr(node, attribute) in names:
            setattr(node, attribute, names[getattr(node, attribute)])
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            node.names = [names.get(name, name) for name in node.names]
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(flat(nodes[0]).encode()).hexdigest()


def walk(tree: ast.Module) -> list[ast.AST]:
    """As ast.walk, in a third of the time: all nodes breadth first, the same order for the same shape."""
    nodes = [tree]
    for node in nodes:
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                nodes += [item for item in value if isinstance(item, ast.AST)]
            elif isinstance(value, ast.AST) and not isinstance(value, ast.expr_context):
                nodes.append(value)
    return nodes


def flat(node) -> str:
    """The syntax tree as text, the same on every Python version (ast.dump is not: 3.12 adds fields, 3.13 drops empty
    ones), since keys decide what is held out and outlive the interpreter."""
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in node._fields)
        inner = [f"{name}={flat(value)}" for name, value in fields if value is not None and value != []]
        return f"{type(node).__name__}({','.join(inner)})"
    return f"[{','.join(map(flat, node))}]" if isinstance(node, list) else repr(node)


def program_key(program: str) -> str:
    return tree_key(walk(parse_program(program)))

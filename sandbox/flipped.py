"""A program in which every set that is gone through gives its elements in another order: does its value change?

Two to eight hash seeds miss an unfair coin: "is this word the first of the set of these seven?" is no under all of
eight seeds three times in ten.  Here each of the seven comes first once.  Sets of numbers keep their order, which is
the same under every hash seed.  What a set is gone through by is replaced in the syntax tree where that is plain to
see; no argument of the program's own functions is, and no operand of a set's operators, since they want sets.
"""
import ast
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction

from sandbox.determinism import unused

ORDERS = 8  # the last element first, then the one before it, and so on
HEAD = """
from sandbox.flipped import elements as {0}, each as {0}_each, popped as {0}_pop, text as {0}_text, called as {0}_call
def {0}_f(order, *arguments):
    return {0}_call(order, f, arguments)
"""
NUMBERS = {int, float, bool, complex, Decimal, Fraction}  # their hashes are the same in every process
TEXTS = {"str", "repr", "ascii", "format", "format_map"}
# How many of its arguments a function goes through.
TAKEN = dict.fromkeys("""accumulate batched combinations combinations_with_replacement Counter cycle deque dict
    enumerate fromkeys groupby heapify islice iter list mode multimode OrderedDict pairwise permutations sorted sum tee
    tuple""".split(), 1) | dict.fromkeys("""chain compress dropwhile extend extendleft filter filterfalse join map merge
    nlargest nsmallest product starmap takewhile update zip zip_longest""".split(), 99) | {"reduce": 2}
MAPPED = {*TAKEN, *TEXTS, "min", "max"}  # that `map` may hand sets to

order = 0  # of this process: a child that runs one program


def is_fixed(value: object) -> bool:
    """Whether its hash is the same in every process."""
    return type(value) in NUMBERS or type(value) in (tuple, frozenset) and all(map(is_fixed, value))


def elements(value):
    """A set's elements in the order of this call; any other value, and a set in a fixed order, itself."""
    if type(value) not in (set, frozenset) or len(value) < 2 or all(map(is_fixed, value)):
        return value
    parts = list(value)[::-1]
    first = order % len(parts)
    return parts[first:] + parts[:first]


def each(values, change: Callable = elements) -> Iterator:
    return map(change, elements(values))


def popped(value):
    parts = elements(value)
    if parts is value:
        return value.pop()
    value.remove(parts[0])
    return parts[0]


class Text(str):
    __repr__ = str.__str__


def text(value):
    """What has the text of the value, the elements of its sets in the order of this call."""
    kind = type(value)
    if kind in (set, frozenset) and value:
        return Text(("{%s}" if kind is set else "frozenset({%s})") % ", ".join(map(repr, each(value, text))))
    if kind in (list, tuple):
        return kind(map(text, value))
    return {text(key): text(item) for key, item in value.items()} if kind is dict else value


def called(number: int, f: Callable, arguments: tuple) -> list | None:
    """[the value of f in this order], None if it fails: then it may be that it wanted a set."""
    global order
    order = number
    try:
        return [f(*arguments)]
    except BaseException:
        return None


class Flipped(ast.NodeTransformer):
    """Hands every set that is gone through to `elements`, and every value that is made a text of to `text`."""

    def __init__(self, name: str, own: set[str]):
        self.name, self.own = name, own

    def call(self, what: str, *arguments: ast.expr) -> ast.Call:
        return ast.Call(ast.Name(self.name + what, ast.Load()), list(arguments), [])

    def visit(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        match node:
            case ast.For() | ast.comprehension():
                node.iter = self.call("_each" if isinstance(node.target, (ast.Tuple, ast.List)) else "", node.iter)
            case ast.Assign(targets=[ast.Tuple() | ast.List() | ast.Subscript(slice=ast.Slice())]) | \
                    ast.AugAssign(op=ast.Add()) | ast.Starred(ctx=ast.Load()) | ast.YieldFrom():
                node.value = self.call("", node.value)
            case ast.FormattedValue():
                node.value = self.call("_text", node.value)
            case ast.BinOp(op=ast.Mod(), right=right) if not isinstance(right, ast.Constant):
                node.right = self.call("_text", right)
            case ast.Call(func=ast.Attribute(attr="pop", value=value), args=[], keywords=[]):
                return self.call("_pop", value)
            case ast.Call(func=ast.Attribute(attr="__iter__", value=value), args=[]):
                node.func.value = self.call("", value)
            case ast.Call(func=ast.Attribute(attr="__str__" | "__repr__", value=value), args=[]):
                node.func.value = self.call("_text", value)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name not in self.own:
                self.change_arguments(node, name)
        return node

    def change_arguments(self, node: ast.Call, name: str) -> None:
        def change(what: str, count: int, *more: ast.expr) -> None:
            node.args[:count] = [argument if isinstance(argument, ast.Starred) else self.call(what, argument, *more)
                                 for argument in node.args[:count]]
        if name in TEXTS:
            change("_text", 99)
            for keyword in node.keywords:
                keyword.value = self.call("_text", keyword.value) if keyword.arg else keyword.value
        elif name == "from_iterable":
            change("_each", 1)
        elif name in ("min", "max") and len(node.args) == 1:
            change("", 1)
        elif name == "map" and (how := getattr(node.args[0] if node.args else None, "id", "")) in MAPPED - self.own:
            first = node.args.pop(0)
            change("_each", 99, ast.Name(self.name + "_text" * (how in TEXTS), ast.Load()))
            node.args.insert(0, first)
        elif name in TAKEN:
            change("", TAKEN[name])


def flipped(program: str) -> list[str]:
    """[the program, the name of its function that takes the number of an order, and f's arguments: see `called`]"""
    name, tree = unused(program, "flip"), ast.parse(program)
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return [HEAD.format(name) + ast.unparse(Flipped(name, own).visit(tree)), f"{name}_f"]

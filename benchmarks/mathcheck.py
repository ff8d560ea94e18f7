"""
Whether two mathematical answers are equal, by math-verify (`pip install 'math-verify[antlr4_13_2]'`), in executor
processes: preloaded there by `Executor(preload=("benchmarks.mathcheck",))`, since its parsers see model text.

`parsed` reads an answer where no gold is; `equal` compares what it says, as plain data that nothing evaluates, with a
gold. So no text of a model is ever parsed beside a gold.
"""
import math
import re
from fractions import Fraction

import latex2sympy2_extended.sets
import sympy
from latex2sympy2_extended.logic import And
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy.core.function import AppliedUndef
from sympy.matrices.matrixbase import MatrixBase

MAX_ANSWER = 2_000  # characters; the longest gold has 300


def read(text: str) -> list:
    text = re.sub(r"(?<!\\)\$", "", text)  # a gold of several parts has several pairs of dollars, some of them odd
    # Its own timeouts are signals, which the sandbox does not allow; the executor's limit holds instead.
    return parse(f"${text}$", [LatexExtractionConfig(), ExprExtractionConfig()], parsing_timeout=None)


# ---------------------------------------------------------------------------------------------------------------------
# Expressions as plain data: their parts, arguments before what is made of them

CLASSES = {name: value for module in (sympy, latex2sympy2_extended.sets) for name, value in vars(module).items()
           if isinstance(value, type) and issubclass(value, (sympy.Basic, MatrixBase))}
# math-verify looks at the order in which these were written.
CLASSES |= {"FiniteSet": latex2sympy2_extended.sets.FiniteSet, "SympyFiniteSet": sympy.FiniteSet,
            "And": And, "SympyAnd": sympy.And}
CONSTANTS = {type(value).__name__: value for value in (getattr(sympy.S, name) for name in (
    "Pi Exp1 ImaginaryUnit Infinity NegativeInfinity ComplexInfinity NaN true false EmptySet UniversalSet Reals"
    " Integers Naturals Naturals0 Rationals Complexes GoldenRatio EulerGamma Catalan").split())}
NAMES = {value: name for name, value in CLASSES.items()} | {value: name for name, value in CLASSES.items()
                                                          if name == value.__name__}


def parts(expression: object) -> list[tuple]:
    """Raises KeyError for what is none of CLASSES."""
    match expression:
        case str():
            return [("text", expression)]
        case sympy.Integer():
            return [("integer", int(expression))]
        case sympy.Rational():
            return [("rational", int(expression.p), int(expression.q))]
        case sympy.Float():
            return [("float", str(expression), int(expression._prec))]
        case sympy.Dummy():
            raise KeyError("Dummy")
        case sympy.Symbol():
            known = getattr(expression, "_assumptions_orig", {})
            return [("symbol", expression.name, {name: value for name, value in known.items() if value is not None})]
        case MatrixBase():
            return [*(part for item in expression.flat() for part in parts(item)),
                    ("matrix", NAMES[type(expression)], *map(int, expression.shape))]
        case AppliedUndef():
            name = "applied", expression.func.__name__
        case _ if type(expression).__name__ in CONSTANTS:
            return [("constant", type(expression).__name__)]
        case _:
            name = "made", NAMES[type(expression)]
    arguments = getattr(expression, "_unsorted_args", None) or expression.args
    return [*(part for argument in arguments for part in parts(argument)), (*name, len(arguments))]


LEAVES = {"text": str, "integer": sympy.Integer, "rational": sympy.Rational, "constant": CONSTANTS.__getitem__,
          "float": lambda text, bits: sympy.Float(text, precision=bits),
          "symbol": lambda name, known: sympy.Symbol(name, **known)}


def rebuilt(told: list) -> object:
    """The expression that `parts` took apart, as it was: sums stay sums. Any exception for other data."""
    stack: list = []
    for kind, *rest in told:
        if kind in LEAVES:
            stack.append(LEAVES[kind](*rest))
            continue
        name, *sizes = rest
        if not 0 <= math.prod(sizes) <= len(stack):
            raise ValueError("not enough arguments")
        arguments = [stack.pop() for _ in range(math.prod(sizes))][::-1]
        if not all(isinstance(argument, (sympy.Basic, MatrixBase)) for argument in arguments):
            raise ValueError("text is no argument")
        made = sympy.Function(name) if kind == "applied" else CLASSES[name]
        with sympy.evaluate(kind == "made" and issubclass(made, sympy.Set)):  # which sort their elements
            stack.append(made(*sizes, arguments) if kind == "matrix" else made(*arguments))
    [whole] = stack
    return whole


UNIT = re.compile(r"(?:[\s~]|\\[,;! ])*\\(?:text|mathrm|mathit|rm)\b.*", re.DOTALL)
SPACE = re.compile(r"[\s$~]|\\[,;! ]|(?<=\d),(?=\d{3}(?!\d))")
POWER = re.compile(r"(?:\\times|\\cdot|\*)10(?:\^|\*\*)(?:\{([+-]?\d+)\}|([+-]?\d+))$")
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(e[+-]?\d{1,2})?", re.IGNORECASE | re.ASCII)


def number(text: str) -> tuple[Fraction, bool] | None:
    """The value of a decimal number, perhaps with a unit, and whether it is written with a power of ten."""
    text = SPACE.sub("", UNIT.sub("", text.rpartition("=")[2]))
    text = POWER.sub(r"e\1\2", "1*" + text if text.startswith("10^") else text)
    decimal = NUMBER.fullmatch(text)
    return decimal and (Fraction(text), bool(decimal[1]))


def parsed(text: str) -> tuple:
    """(number, expressions): all that `equal` wants to know of an answer, as plain data."""
    if len(text) > MAX_ANSWER:
        return None, []
    value, told = number(text), []
    for expression in read(text):
        try:
            told.append(parts(expression))
        except KeyError:  # of a class that no gold has
            pass
    return value and (value[0].numerator, value[0].denominator, value[1]), told


def equal(gold: str, answer: tuple) -> bool:
    """Whether an answer, as `parsed` read it, is the gold. Not symmetric: math-verify wants the gold first. It takes
    4.5e33, as a fifth of Minerva's golds are written, for 4.5 times Euler's number times 33, and rounds to six
    decimals, so that all small numbers are the same to it: such golds are compared here, or brought to a size of
    one."""
    value, told = answer
    true, given = number(gold), value and (Fraction(value[0], value[1]), value[2])
    expressions = list(map(rebuilt, told))
    if true and true[0] and (true[1] or abs(true[0]) < Fraction(1, 1000) or given and given[1]):
        if given:
            return abs(true[0] - given[0]) <= abs(true[0]) / 10 ** 6
        shift = -math.floor(math.log10(abs(true[0])))
        gold = str(float(true[0] * Fraction(10) ** shift))
        expressions = [expression * sympy.Integer(10) ** shift for expression in expressions
                       if isinstance(expression, sympy.Expr)]
    # Intervals answer inequalities in both directions, as people write them.
    return bool(verify(read(gold), expressions, timeout_seconds=None, allow_set_relation_comp=True))


# sympy imports much of itself only when it is needed, and later no file can be opened.
for _gold, _answer in (
    ("\\frac{1}{2}", "0.5"), ("(1, 2)", "(1,3)"), ("[0, \\infty)", "[0, 1)"), ("x^2 + 1", "1 + x^2"), ("y = 2x", "2x"),
    ("\\sqrt{2}", "2^{1/2}"),
    ("\\{1, 2\\}", "1, 2"), ("x \\le 2", "(-\\infty, 2]"), ("50\\%", "0.5"), ("\\text{a}", "b"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\3\\end{pmatrix}"), ("\\sin{x}", "\\cos{x}"),
    ("\\binom{n}{2}", "n(n-1)/2"), ("\\log_2 x", "3 \\pm i"), ("\\int_0^1 x dx", "\\lfloor n / 2 \\rfloor"),
    ("2^{1009}", "10!"), ("90^\\circ", "90"),
):
    equal(_gold, parsed(_answer))

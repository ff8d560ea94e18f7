"""
Whether two mathematical answers are equal, by math-verify (`pip install 'math-verify[antlr4_13_2]'`), in an executor
process: preloaded there by `Executor(preload=("benchmarks.mathcheck",))`, since its parsers see model text.
"""
import math
import re
from fractions import Fraction

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

MAX_ANSWER = 2_000  # characters; the longest gold has 300


def read(text: str) -> list:
    text = re.sub(r"(?<!\\)\$", "", text)  # a gold of several parts has several pairs of dollars, some of them odd
    # Its own timeouts are signals, which the sandbox does not allow; the executor's limit holds instead.
    return parse(f"${text}$", [LatexExtractionConfig(), ExprExtractionConfig()], parsing_timeout=None)


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


def equal(gold: str, answer: str) -> bool:
    """Not symmetric: math-verify wants the gold first. It takes 4.5e33, as a fifth of Minerva's golds are written, for
    4.5 times Euler's number times 33, and rounds to six decimals, so that all small numbers are the same to it: such
    golds are compared here, or brought to a size of one."""
    if len(answer) > MAX_ANSWER:
        return False
    true, given = number(gold), number(answer)
    if true and true[0] and (true[1] or abs(true[0]) < Fraction(1, 1000) or given and given[1]):
        if given:
            return abs(true[0] - given[0]) <= abs(true[0]) / 10 ** 6
        shift = -math.floor(math.log10(abs(true[0])))
        gold, answer = str(float(true[0] * Fraction(10) ** shift)), f"({answer}) \\times 10^{{{shift}}}"
    return bool(verify(read(gold), read(answer), timeout_seconds=None))


# sympy imports much of itself only when it is needed, and later no file can be opened.
for _gold, _answer in (
    ("\\frac{1}{2}", "0.5"), ("(1, 2)", "(1,3)"), ("[0, \\infty)", "[0, 1)"), ("x^2 + 1", "1 + x^2"), ("y = 2x", "2x"),
    ("\\sqrt{2}", "2^{1/2}"),
    ("\\{1, 2\\}", "1, 2"), ("x \\le 2", "(-\\infty, 2]"), ("50\\%", "0.5"), ("\\text{a}", "b"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\3\\end{pmatrix}"), ("\\sin{x}", "\\cos{x}"),
    ("\\binom{n}{2}", "n(n-1)/2"), ("\\log_2 x", "3 \\pm i"), ("\\int_0^1 x dx", "\\lfloor n / 2 \\rfloor"),
    ("2^{1009}", "10!"), ("90^\\circ", "90"),
):
    equal(_gold, _answer)

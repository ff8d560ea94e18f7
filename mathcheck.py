"""
Whether two mathematical answers are equal, by math-verify (`pip install 'math-verify[antlr4_13_2]'`), in an executor
process: preloaded there by `Executor(preload=("mathcheck",))`, since its parsers see model text.
"""
import re

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

MAX_ANSWER = 2_000  # characters; the longest gold has 300


def read(text: str) -> list:
    text = re.sub(r"(?<!\\)\$", "", text)  # a gold of several parts has several pairs of dollars, some of them odd
    # Its own timeouts are signals, which the sandbox does not allow; the executor's limit holds instead.
    return parse(f"${text}$", [LatexExtractionConfig(), ExprExtractionConfig()], parsing_timeout=None)


def equal(gold: str, answer: str) -> bool:
    """Not symmetric: math-verify wants the gold first."""
    return len(answer) <= MAX_ANSWER and bool(verify(read(gold), read(answer), timeout_seconds=None))


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

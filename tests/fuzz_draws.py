"""What tests/fuzz.py tries: values, literals, responses, programs, and damage to files, drawn from a random.Random.

Everything is plain data and the same for the same generator, whatever the hash seed: sets are gone through in the order
of their texts. Nothing here reads or runs what it draws.
"""
import json
import math
import random
import re

ODD = ("\0", "\x1b[2J", "\x07", "\b", "\x0b", "\x0c", "\r", "\x1c", "\x7f", "\x85", "\xa0", "\u2028", "\u202e",
       "\ufeff", "\ud800", "\udfff", "é", "e\u0301", "ß", "İ", "ﬁ", "𝐟", "٣", "²", "\U0001f600", "\U0010ffff")
SPECIALS = ("<eos>", "<pad>", "<|endoftext|>", "<|im_end|>", "<|im_start|>assistant\n", "<|eot_id|>", "</s>", "[INST]")
nan, inf = math.nan, math.inf
LONGEST = 200_000  # characters of a response: 8,096 tokens, mostly of a few characters


def size(rng: random.Random, most: int) -> int:
    """1 to most, small ones as often as large ones."""
    return int(most ** rng.random())


# ----------------------------------------------------------------------------------------------------------------
# Values

SCALARS = (None, True, False, 0, 1, -1, 2, 10, 2**31, 2**63 - 1, 2**63, -2**63, -2**64, 10**17, 10**400, 2**13_999,
           -2**14_000, 0.0, -0.0, 1.0, 0.1, -1.5, 1e16, 1e300, 5e-324, 2.0**53, nan, inf, -inf, 1j, -1j, 0j, -0j,
           1 + 2j, complex(-0.0, 1), complex(1, -0.0), complex(-0.0, -0.0), complex(nan, 1), complex(0, nan),
           complex(inf, -inf), complex(0, -inf), "", "a", "ab", "'", '"', "\\", "\n", "'''", "\"'", b"", b"a",
           b"\0\xff'")
SAME_HASH = 2**61 - 1  # its multiples have the hash 0


def scalar(rng: random.Random):
    which = rng.random()
    if which < 0.4:
        return rng.choice(SCALARS)
    if which < 0.6:
        return rng.randint(-20, 20)
    if which < 0.7:
        return rng.choice((rng.uniform(-9, 9), rng.getrandbits(rng.randint(1, 100)), rng.gauss(0, 1) * 1e20))
    return word(rng)


def word(rng: random.Random) -> str:
    return "".join(rng.choice(ODD) if rng.random() < 0.1 else chr(rng.randint(32, 126)) for _ in range(size(rng, 12)))


def value(rng: random.Random, room: int = 30, hashable: bool = False):
    """A tree of at most about `room` scalars."""
    if room <= 1 or rng.random() < 0.2:
        return scalar(rng)
    count = rng.randint(0, min(5, room))
    kind = rng.choice((tuple, frozenset) if hashable else (list, tuple, dict, set, frozenset))
    parts = [value(rng, room // count - 1, hashable or kind in (set, frozenset)) for _ in range(count)]
    return {value(rng, 3, True): part for part in parts} if kind is dict else kind(parts)


def deep(rng: random.Random, most: int = 1000):
    """1 to `most` containers around a scalar, alone or with company; the innermost may hold what they hold twice."""
    inner, depth = scalar(rng), size(rng, most) if rng.random() < 0.3 else size(rng, 52)
    kinds = rng.choices(("list", "tuple", "dict", "set", "frozenset", "twice"), k=rng.choice((1, 1, 2, 3)))
    for level in range(depth):
        kind, other = rng.choice(kinds), [scalar(rng)] if rng.random() < 0.2 else []
        if kind in ("set", "frozenset"):
            # A set holds what can be hashed; the outermost may be a set itself.
            inner = frozenset([inner, *other]) if hashable(inner) else [inner, *other]
        elif kind == "tuple":
            inner = (inner, *other)
        elif kind == "twice" and level < 12:
            inner = frozenset([inner, (inner,)]) if hashable(inner) else [inner, inner]
        else:
            inner = {1: inner} if kind == "dict" else [inner, *other]
    return set(inner) if type(inner) is frozenset and rng.random() < 0.5 else inner


def hashable(value) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def wide(rng: random.Random):
    """Up to 10^5 elements, all drawn alike."""
    count, start = size(rng, 100_000), rng.choice((0, -3, 10**6))
    element = rng.choice((lambda i: i, lambda i: i + start, lambda i: i / 8, str, lambda i: (i, "x"),
                          lambda i: "é" * 3,
                          lambda i: frozenset({i, -i}), lambda i: (i % 3 == 0), lambda i: i * SAME_HASH))
    if element(1) == SAME_HASH:
        count = min(count, 300)  # a set of these is built in the square of their number
    elements = [element(i) for i in range(count)]
    kind = rng.choice((list, tuple, set, frozenset, "dict", "str", "bytes"))
    if kind == "str":
        return rng.choice(("a", "\\", "'", *ODD)) * count
    return bytes(count) if kind == "bytes" else dict.fromkeys(elements, 1) if kind == "dict" else kind(elements)


def any_value(rng: random.Random):
    which = rng.random()
    return value(rng) if which < 0.8 else deep(rng) if which < 0.97 else wide(rng)


def ordered(values) -> list:
    return sorted(values, key=written)


def written(value) -> str:
    """The value as a literal, by rules of our own: sets in the order of their elements' texts."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset) and value:
        parts = list(map(written, value)) if kind in (list, tuple) else sorted(map(written, value))
        inner = ", ".join(parts) + ("," if kind is tuple and len(parts) == 1 else "")
        return {list: "[%s]", tuple: "(%s)", set: "{%s}", frozenset: "frozenset({%s})"}[kind] % inner
    if kind is dict:
        return "{" + ", ".join(f"{written(k)}: {written(v)}" for k, v in value.items()) + "}"
    return hex(value) if kind is int and value.bit_length() > 1000 else repr(value)  # of 4,300 digits there is no repr


def variant(value, rng: random.Random, same: bool):
    """Written differently, but the same value; or else with one scalar, or the order or kind of a container changed."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset, dict) and (same or value and rng.random() < 0.8):
        items = list(value) if kind in (list, tuple) else ordered(value)
        if kind is dict:
            changed = rng.randrange(len(items)) if items else 0
            pairs = [(key, variant(value[key], rng, same) if same or i == changed else value[key])
                     for i, key in enumerate(items)]
            return dict(reversed(pairs))
        if same:
            items = [variant(item, rng, True) for item in items]
        else:
            at = rng.randrange(len(items))
            items[at] = variant(items[at], rng, False)
            if kind in (set, frozenset) and not hashable(items[at]):
                return items
        return frozenset(items) if kind is set and same and rng.random() < 0.5 else kind(items)
    if same:
        if kind is int and abs(value) < 2**53:
            return rng.choice((value, float(value), complex(value)))
        return {0.0: -value, 1.0: 1}.get(value, value) if kind is float else value
    others = {list: tuple, tuple: list, set: list, frozenset: tuple, dict: list, bool: int, int: lambda v: v + 1,
              str: lambda v: v + "x", bytes: lambda v: v + b"x"}
    return others.get(kind, lambda v: "other")(value)


# ----------------------------------------------------------------------------------------------------------------
# Literals as text

PAIRS = (("[", "]"), ("(", ")"), ("(", ",)"), ("{", "}"), ("{1:", "}"), ("frozenset({", "})"), ("frozenset([", "])"),
         ("f(", ")"), ("[1,", "]"), ("{(", ")}"), ("-", ""), ("+", ""), ("not ", ""), ("1+", ""), ("1-", ""), ("~", ""),
         ("lambda:", ""), ("await ", ""), ("*", ""), ("x.", "x"), ("1if 1else ", "2"), ("[x for x in ", "]"),
         ("f'{", "}'"), ("'", "'"), ('"', '"'))
UNITS = ("1,", "1, ", "'a',", "9", "0", "_1", "\\x41", "\\N{BULLET}", "a", " ", "\n", "\t", "#", "\\\n", "1e9", "1:1,",
         "frozenset({1}),", "((),),", "-1,", ".", "é", "\0", "''", "nan,", "1j+", ";", "()")
WORDS = ("float('nan')", "float('-inf')", "nan", "-inf", "nanj", "1e999", "-1e-999", "1_000", "0x_ff", "0b11", "1e5j",
         "2**9", "'a' 'b'", "b'\\xff'", "b'é'", "u'a'", "r'\\'", "f'{1}'", "'\\ud800'", "'\\N{BULLET}'",
         "\"\"\"a\n\"\"\"", "set()", "frozenset()", "{*[]}", "{**{}}", "{[]}", "{{}: 1}", "...", "True", "None",
         "__debug__", "print", "(yield)", "(x := 1)", "1 if 1 else 2", "'\\", "'", "1 +", "f(1)", "1;2", "x=1", "*[1]",
         "**{}", "0777", "1__0")


def literal(rng: random.Random) -> str:
    which = rng.random()
    if which < 0.45:
        return written(value(rng, 12))
    if which < 0.6:
        return rng.choice(WORDS)
    if which < 0.65:
        return written(deep(rng, 250))
    if which < 0.85:
        (left, right), count = rng.choice(PAIRS), size(rng, 1000)
        return left * count + rng.choice(("", "1", "'a'", "x")) + right * (count if rng.random() < 0.8 else 0)
    left, right = rng.choice((("", ""), ("[", "]"), ("'", "'"), ("{", "}"), ("1", ""), ("(", ")")))
    return left + rng.choice(UNITS) * size(rng, 100_000 if rng.random() < 0.03 else 2000) + right


# ----------------------------------------------------------------------------------------------------------------
# Programs

STATEMENTS = (
    "x = x + {n}", "x += {n}", "x = [x, {n}]", "y = {n}", "x = str(x)", "x = x * {n}", "x = (x, {s})", "x = [x] * {n}",
    "x = {{x: {n}}}", "x = {{{n}, {n}}}", "x = sorted(str(x))", "x = len(str(x))", "x = x if x else {n}", "x = not x",
    "x = abs(x) % {n}", "x = {s}.join(map(str, range({n})))", "x = list(map(str, [x, {n}]))", "x = {s} * {n}",
    "for i in range({n}):\n    x = [x, i][:2]", "while x and {n} > 9:\n    x = x[1:]",
    "if x:\n    x = {n}\nelse:\n    x = y", "try:\n    x = x / {n}\nexcept Exception as e:\n    x = {s}",
    "def g(a, b={n}):\n    return [a, b]\nx = g(x)", "x = (lambda v: (v, {n}))(x)",
    "x = [v for v in str(x) if v != {s}]", "import math\nx = math.floor({n} / 7)",
    "from collections import Counter\nx = dict(Counter(str(x)))", "import json\nx = json.dumps(x)", "x, y = y, x",
    "match x:\n    case [a, *b]:\n        x = b\n    case _:\n        x = {n}", "x = x[::-1]", "x = x[0]", "assert x",
    "class C:\n    def __init__(self, v):\n        self.v = v\nx = C(x).v", "x = str(x).encode()", "x = {n} / 3",
    "x = float({n})", "x = complex({n}, 1)", "x = frozenset([{n}, {s}])", "x = {{'a': {{'b': x}}}}", "x = set(str(x))")
HOSTILE = (  # each a line of a body
    "x = float('nan')", "x = -0.0", "x = 10 ** {n}00", "x = x * 10 ** 7", "x = '\\ud800'", "x = '\\x1b[2J\\x00'",
    "x = '```'", "x = '</answer>'", "x = '<eos>'", "x = '<|im_end|>'", "x = '<think>'", "x = object()", "x = f",
    "x = type(x)", "x = iter([1])",
    "x = (i for i in [1])", "x = range(3)", "x = ...", "x = NotImplemented", "x = bytearray(b'a')",
    "x = Exception('a')",
    "x = [[]]\n    x[0] = x", "x = [x, x, x]\n    for i in range({n}): x = [x, x]", "raise SystemExit",
    "raise KeyboardInterrupt",
    "raise MemoryError", "raise RecursionError", "raise GeneratorExit", "raise ValueError('\\x1b[2J\\n')", "return",
    "yield x",
    "raise type('E' * 300, (Exception,), {{}})()", "raise type('a b', (Exception,), {{}})()", "raise StopIteration",
    "class E(Exception):\n        def __str__(self): raise self\n    raise E",
    "import sys\n    sys.setrecursionlimit(10**6)",
    "class I(int): pass\n    x = I(3)",
    "class S(str):\n        def __eq__(self, o): return True\n        __hash__ = None\n    x = S()",
    "global y\n    y = x", "global f\n    f = None", "del x", "print(x)", "input()", "open('/etc/passwd')", "exit()",
    "quit()",
    "import os", "import time\n    x = time.time()", "import random", "from . import a", "import math as os",
    "exec('x = 1')", "eval('1')", "compile('1', '', 'eval')", "__import__('os')", "getattr(f, '__globals__')",
    "globals()",
    "locals()", "vars()", "f.__code__", "f.__globals__", "().__class__.__base__.__subclasses__()", "x = __builtins__",
    "f.n = getattr(f, 'n', 0) + 1\n    x = f.n", "x = f(x)", "f.__defaults__ = (1,)",
    "f.__code__ = (lambda x: 1).__code__",
    "x = frozenset([x])\n    for i in range({n}): x = frozenset([x, (x,)])",
    "x = frozenset([1])\n    for i in range(60): x = frozenset([x])",
    "for i in range(60): x = [x]", "for i in range(45): x = (x,)", "for i in range(17): x = frozenset([x, i])",
    "x = {{i * (2**61 - 1) for i in range({n}0)}}", "x = 'a' * 399", "x = 'a' * 10**5", "x = 'a' * 10**9",
    "x = [0] * 10**6",
    "async def g(): pass\n    x = g()", "with open: pass", "import collections\n    x = collections.OrderedDict(a=1)",
    "from fractions import Fraction\n    x = Fraction(1, 3)", "from decimal import Decimal\n    x = Decimal('0.1')",
    "from enum import Enum\n    x = Enum('E', 'a').a", "import math\n    x = math",
    "import re\n    x = re.compile('a')",
    "import re\n    x = bool(re.match('(a|aa)+b', 'a' * {n}))", "def g(n): return g(n + 1)\n    x = g(1)")
# Ways to a coin that no solver can call, some behind names that a program may bind.
COINS = (
    "x = id(x)", "x = id(object()) % 7", "x = hash('a{n}') % 2", "x = hash(str(x)) % 2 == 0",
    "x = list({{'a', 'b', {s}}})[0]", "x = str({{'a', 'b', {s}}})", "x = {{'a', 'b'}}.pop()",
    "x = min({{'a', 'b', 'c'}}, key=len)", "x = str(object())", "x = repr(f)", "x = str(f)[-5:]",
    "x = f'{{object()}}'", "x = hash(None) % 4", "x = hash(f) % 8", "x = str(lambda: 1)",
    "x = next(iter({{'p', 'q', 'r', 's'}})) < 'q'", "x = list(frozenset('abcdefg'))[0]",
    "x = ''.join({{'u', 'v', 'w'}})", "def g(id): return 0\n    x = id(x) % 2",
    "def g(hash): return 0\n    x = hash('b') % 2",
    "def g(__import__): return 0\n    x = int(__import__('time').time() * 1000) % 2", "x = eval('i' + 'd')(x) % 2",
    "x = globals()['__builtins__']", "import collections\n    x = collections._sys.version", "x = [*map(id, [x])]",
    "import functools\n    x = str(functools.partial(f))", "x = object.__hash__(x) % 2",
    "import re\n    x = re.enum.sys.hexversion", "x = str(dict.fromkeys({{'a', 'b', 'c'}}))",
    "x = [k for k in {{'ab', 'cd', 'ef'}}]", "x = sum(ord(c) * i for i, c in enumerate({{'a', 'b', 'c'}}))",
    "import operator\n    x = operator.attrgetter('__class__')(x).__name__",
    "import copy\n    x = copy._copy_dispatch", "import math\n    x = str(math)",
    "import json\n    x = json.codecs.sys.flags.hash_randomization", "x = '%r' % f")
SLOW = ("while True: pass", "import re\n    re.match('(a+)+b', 'a' * 99)", "x = 9 ** 9 ** 9", "x = [0] * 10**10",
        "f(x); f(x)", "sum(range(10**10))", "while len(str(x)) >= 0: x = [x]",
        "for i in range(10**9): f.__doc__ = str(i)")
TOPS = ("", "", "", "", "# -*- coding: latin-1 -*-\n", "\ufeff", "\n\n", "import math\n", "from typing import List\n",
        "x = 5\n", "y = []\n", "from __future__ import annotations\n", "f = 3\n", "class A: pass\n", "@staticmethod\n",
        "@print\n", "async ", "\f", "def g(n):\n    return n\n", "if 1:\n    pass\n", "'''doc'''\n", "import os\n",
        "raise ValueError\n", "print(1)\n")
ENDS = ("return x", "return x", "return x", "return x", "return [x]", "return y", "return x, y", "return {x}",
        "return", "pass", "return f", "yield x", "return str(x)", "return lambda: x", "return x == x", "raise x",
        "return not x")
TOKEN = re.compile(r"\w+|\s+|[^\w\s]")


def program(rng: random.Random, slow: float = 0.0005, coins: float = 0.05) -> str:
    """A program with `f`, mostly one that runs; `slow` and `coins` are the shares of those that should not end, or not
    pass the gate."""
    lines = [rng.choice(STATEMENTS) for _ in range(rng.randint(1, 5))]
    for share, kind in ((0.3, HOSTILE), (coins, COINS), (slow, SLOW)):
        if rng.random() < share:
            lines.insert(rng.randint(0, len(lines)), rng.choice(kind).replace("\n    ", "\n"))
    body = "\n".join(lines).format(n="\0", s="\1")
    body = re.sub("[\0\1]", lambda hole: str(rng.randint(0, 12)) if hole[0] == "\0" else repr(rng.choice("abc")), body)
    parameters = rng.choice(("x", "x", "x", "x, y=2", "x, y=2", "*x", "x=1", "x, *, y=1", "x: int, y: 'a' = 3"))
    indented = "".join(f"    {line}\n" for line in body.split("\n"))
    text = f"{rng.choice(TOPS)}def f({parameters}):\n{indented}    {rng.choice(ENDS)}"
    return mutated_program(text, rng) if rng.random() < 0.3 else text


def mutated_program(text: str, rng: random.Random) -> str:
    tokens = TOKEN.findall(text)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(tokens))
        tokens[at] = rng.choice(("", tokens[at] * 2, rng.choice(tokens), rng.choice(tokens), str(rng.randint(-3, 12)),
                                 rng.choice(ODD), literal(rng)[:300], rng.choice(WORDS), "\n", "    ", "x"))
    return "".join(tokens)


def input_text(rng: random.Random) -> str:
    count = rng.choice((1, 1, 1, 1, 2, 0))
    values = [rng.choice((rng.randint(-3, 20), word(rng), [rng.randint(0, 9) for _ in range(rng.randint(0, 4))], 
                          value(rng, 5))) for _ in range(count)]
    return ", ".join(map(written, values)) if rng.random() < 0.95 else literal(rng)


# ----------------------------------------------------------------------------------------------------------------
# Responses

TAGS = ("</think>", "<think>", "<answer>", "</answer>", "</think><answer>", "</think>\n<answer>\n", "<answer",
        "answer>", "</Answer>", "< answer>", "User: ", "\nAssistant: <think>")
FENCES = ("```", "```python\n", "```input\n", "```output\n", "```message\n", "\n```\n", "````", "``` \t\n", "```py\r\n",
          "```\0\n", "```é\n", "~~~", "`")
TEXTS = ("f(", ")", "'", '"', "\\", "#", "{", "}", "[", "]", "def f(x):", "return x", "1", "-", "\\boxed{", "[ANSWER]",
         "[/ANSWER]", " == ", "assert f(", "$", "\\text{", "^{\\circ}", "{,}", "1,000", "=")
BLANKS = (" ", "\n", "\t", "  \n", "\r\n", "\x0b", "\xa0", "\u2028")


def piece(rng: random.Random) -> str:
    return rng.choice(rng.choice((TAGS, TAGS, FENCES, FENCES, TEXTS, BLANKS, ODD, SPECIALS)))


def fenced(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def response(rng: random.Random, type: str, role: str, right: str) -> str:
    """What a model could say to a prompt of this role and type, mostly damaged; `right` is an answer that is right.
    Undamaged, its programs and inputs are among some hundreds, which are run once: it is the text that is new."""
    known = random.Random(rng.randrange(300))
    if role == "propose" and type == "induction":
        blocks = [fenced("input", input_text(known)) for _ in range(rng.choice((4, 4, 4, 5, 3)))]
        blocks.append(fenced("message", word(rng)))
    elif role == "propose":
        blocks = [fenced("python", program(known, slow=0, coins=0)), fenced("input", input_text(known))]
    else:
        drawn = right if rng.random() < 0.3 else program(known, 0, 0) if type == "induction" else literal(rng)
        language = {"deduction": "output", "error": "output", "abduction": "input", "induction": "python"}[type]
        blocks = [drawn if rng.random() < 0.2 else fenced(language, drawn)]
    text = f"some thoughts </think>\n<answer>\n{chr(10).join(blocks)}\n</answer>"
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        text = mutated(text, rng)
    return text[:LONGEST]


def mutated(text: str, rng: random.Random) -> str:
    a, b = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
    b = min(b, a + size(rng, 200))
    which = rng.randrange(10)
    if which < 4:
        return text[:a] + piece(rng) + text[a if which < 3 else b:]
    if which < 6:
        several = "".join(piece(rng) for _ in range(rng.choice((1, 1, 2, 3))))
        return text[:a] + several * size(rng, 20_000 // len(several) if rng.random() < 0.04 else 50) + text[a:]
    if which == 6:
        return text[:a] + text[b:]
    if which == 7:
        return text[:a] + text[a:b] * 2 + text[b:]
    return text[:a] if which == 8 else text[:a] + text[a:b].swapcase() + text[b:]


# ----------------------------------------------------------------------------------------------------------------
# Damage to files

def json_value(rng: random.Random):
    """What JSON can say; as text, since some of it has no other form."""
    return rng.choice(("null", "true", "0", "-1", "1.5", "1e400", "-1e400", "NaN", "Infinity", "1" * 30, "9" * 5000,
                       '""', '"a"', '"\\ud800"', '"\\u0000\\u001b[2J"', '"1"', '"nan"', '"\\n\\n"', "[]", "[[]]",
                       "[null]", '["a"]', "[1, 2, 3]", "{}", '{"a": 1}', '{"step": 1}', '"</script>"',
                       '"' + "a" * 500 + '"', "1e308", "-5", "2", "9007199254740993", "[" * 100 + "]" * 100,
                       "[" * 5000 + "]" * 5000, '{"a":' * 3000 + "1" + "}" * 3000))


def holes(tree, path: tuple = ()) -> list[tuple]:
    """The paths of all values in a tree of JSON."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(hole for key, item in inner for hole in holes(item, (*path, key)))]


def json_damage(text: str, rng: random.Random) -> str:
    """One value of a JSON text replaced, removed or named otherwise."""
    try:
        tree = json.loads(text)
        *above, last = rng.choice(holes(tree)[1:] or [(None,)])
    except (ValueError, RecursionError):  # damaged before
        return text
    if last is None:
        return json_value(rng)
    place = tree
    for key in above:
        place = place[key]
    which = rng.random()
    if which < 0.7:
        place[last] = "\0hole"
    elif which < 0.85:
        del place[last]
    elif isinstance(place, dict):
        place[rng.choice(("type", "a", "step", ""))] = place.pop(last)
    else:
        place.append(place[last])
    return json.dumps(tree).replace(json.dumps("\0hole"), json_value(rng))


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A file damaged in its bytes, its lines or the fields of one of its lines."""
    which, a = rng.random(), rng.randint(0, len(data))
    if data.startswith(b"{\n ") and rng.random() < 0.7:  # one document
        return json_damage(data.decode(errors="replace"), rng).encode()
    if which < 0.1:
        return data[:a]
    if which < 0.25:
        return data[:a] + rng.choice((b"", bytes([rng.randrange(256)]), b"\0" * 8, b"\xff\xfe", b"\n", b"\r\n", b"{",
                                      b'"', "\u2028".encode(), b"\xed\xa0\x80")) + data[a + rng.choice((0, 1, 1, 8)):]
    if which < 0.28:
        return rng.choice((b"", b"\n", b"\xef\xbb\xbf" + data, data.decode("utf-8", "replace").encode("utf-16"),
                           b"null\n", b"[]\n", data.replace(b"\n", b"\r\n"), data.replace(b"\n", b""), b"{}\n" * 3,
                           b"\x1f\x8b" + data))
    lines = data.split(b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    if which < 0.4:
        lines[at] = rng.choice((b"", lines[other], lines[at] + lines[other], lines[at] * 2, b" " + lines[at],
                                json_value(rng).encode()))
    elif len(lines) > 2 and which < 0.97:
        lines[at] = json_damage(lines[at].decode("utf-8", "replace"), rng).encode()
    else:
        return json_damage(data.decode("utf-8", "replace"), rng).encode()
    return b"\n".join(lines)

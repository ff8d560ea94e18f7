"""Programs whose values are random by construction, by every road that we know: for the test of the gate.

Each returns, mostly as a single bit, something of a set's order, a hash, an address, a clock, a random generator, a
process id, or of where memory and stack end.  `draw` makes any number of different ones.
"""
import random
import string
from collections.abc import Iterator

# The order of a set. W: a list of 2 to 7 words; the last two lines are of a set's elements that are no words.
SETS = r"""
return W.index(list(set(W))[0])
return set(W).pop()
return next(iter(frozenset(W)))
return ''.join(set(W))
return min(set(W), key=bool)
return max({w: 0 for w in set(W)}, key=bool)
return sorted(set(W), key=lambda w: 0)[0]
return list({*W}).index(W[0]) < list({*W}).index(W[1])
for w in set(W):\n    return w
first, *_ = {w for w in W}\nreturn first
return str(set(W)).index(W[0]) < str(set(W)).index(W[1])
return [w for w in dict.fromkeys(W).keys() | W]
return list(dict.fromkeys(W).keys() - {x})
a = dict.fromkeys(W)\nb = a.keys()\nreturn list(b & b)[0]
return list(operator.and_(dict.fromkeys(W).keys(), W))
return list(functools.reduce(lambda a, b: a | b, [dict.fromkeys(W).items()] * 2))[0][0]
return list(dict.fromkeys(W).keys().__or__([]))[0]
return list(functools.reduce(operator.or_, map(dict.keys, [dict.fromkeys(W)] * 2)))[0]
return list(operator.methodcaller('keys')(dict.fromkeys(W)) | W)[0]
return list(collections.abc.KeysView(dict.fromkeys(W)) - {x})[0]
return collections.Counter(set(W)).most_common(1)[0][0]
return list(copy.copy({tuple(w) for w in W}))[0]
return list({w.encode() for w in W})[0]
return list(frozenset([frozenset([w]) for w in W]))[0]
return json.dumps(list(set(W)))
return [*set(W), *W][0]
return list(zip(set(W), W))[0][0]
return list(itertools.chain(set(W)))[0]
return statistics.mode(set(W))
return [w for w in set().union(W).symmetric_difference({x})]
return sum(i * len(str(w)) for i, w in enumerate({None, *W}))
return [a.n for a in {A(n) for n in range(9)}][0]
return [g(0) for g in {lambda y: 0, lambda y: 1, lambda y: 2}]
return sum(i * len(w) for i, w in enumerate(set(W)))
d = {}\nfor w in {*W}:\n    d[len(d)] = w\nreturn d[0]
a = []\na.extend(frozenset(W))\nreturn a[-1]
return functools.reduce(lambda a, b: a + b, set(W))
return ' '.join(f'{w}' for w in {*W} if w)
s = set()\nfor w in W:\n    s.add(w)\nwhile len(s) > 1:\n    s.pop()\nreturn s
return [w for w, v in {w: 1 for w in {*W}}.items()][:1]
""".strip().split("\n")
# One bit of something that differs from process to process, and the name of the builtin that it takes.
BUILTINS = {
    "hash": ["hash(str(x)) % 2", "hash('Q') > 0", "list(map(hash, ['Q']))[0] % 2", "sorted('Qq', key=hash)[0]",
             "(lambda y, h=hash: h('Q') % 2)(x)", "hash.__call__('Q') % 2",
             "[hash][0]('Q') & 1", "(1 and hash)('Q') % 2",
             "hash((None, 'Q')) % 2", "max(['Q', 'q'], key=hash)"],
    "id": ["id([]) >> 26 & 1", "id(object()) >> 27 & 1", "id(x) % 7 if False else id('Q' * 9) >> 26 & 1",
           "list(map(id, [[]]))[0] >> 26 & 1", "id(id) >> 26 & 1", "id(f) >> 26 & 1", "id(None) >> 26 & 1"],
    "__import__": ["int(__import__('time').time() * 1e6) % 2", "__import__('os').getpid() % 2",
                   "__import__('random').random() < 0.5", "__import__('uuid').uuid4().int % 2",
                   "__import__('datetime').datetime.now().microsecond % 2", "__import__('secrets').randbelow(2)",
                   "__import__('threading').get_ident() >> 26 & 1", "__import__('time').perf_counter_ns() % 2"],
    "eval": ["eval('hash')('Q') % 2", "eval('id([])') >> 26 & 1", "eval('__im' + 'port__')('os').getpid() % 2"],
    "exec": ["[exec('a.append(ha' 'sh(str(9)) % 2)', {'a': a}) or a for a in [[]]][0]"],
    "compile": ["type(f)(compile('lambda: 0', '', 'eval'), {})().__hash__() >> 8 & 1"],
    "globals": ["globals()['__builtins__']['hash']('Q') % 2"],
    "locals": ["list(locals())[0] == str({'Q', 'q'})"],
    "vars": ["vars(str)['__hash__']('Q') % 2", "vars(math)['__loader__'].__hash__() % 2"],
    "getattr": ["getattr('Q', '__ha' + 'sh__')() % 2", "getattr(statistics, 'ran' 'dom').random() < 0.5",
                "list(map(getattr, ['Q'], ['__hash__']))[0]() % 2", "getattr(*['Q', '__hash__'])() % 2"],
    "setattr": ["[setattr(A, '__str' + '__', lambda s: 'Q'), str({'Q', 'q'})][1]"],
    "__builtins__": ["__builtins__['hash']('Q') % 2", "__builtins__['id']([]) >> 26 & 1"],
    "__loader__": ["__loader__.load_module('time').time_ns() // 1000 % 2"],
    "__build_class__": ["__build_class__(lambda: None, 'Q').__hash__() % 2"],
    "object": ["object.__hash__(x) % 2 if 0 else object().__hash__() % 2"],
    "type": ["type(x).__hash__(f) % 2", "type.__dict__['__subclasses__'](object)[9].__hash__(f) % 2"],
    "memoryview": ["repr(memoryview(b'Q'))[-8] > '7'"],
}
# Where the name is bound besides, without hiding the builtin where it is used. N: the name, U: the use.
SHADOWS = r"""
def f(x):\n    return U
def g(N):\n    return 0\ndef f(x):\n    return U
def g():\n    N = 1\n    return N\ndef f(x):\n    return U
class B:\n    N = 0\ndef f(x):\n    return U
class B:\n    def N(self):\n        return 0\ndef f(x):\n    return U
class B:\n    def m(self, x):\n        return U\n    N = 0\ndef f(x):\n    return B().m(x)
class B:\n    v = [U for x in [1]]\n    N = 0\ndef f(x):\n    return B.v[0]
def f(x):\n    a = [N for N in range(3)]\n    return U
def f(x):\n    return U if (lambda N: 1)(0) else 0
if 0:\n    N = 0\ndef f(x):\n    return U
for N in []:\n    pass\ndef f(x):\n    return U
while 0:\n    import math as N\ndef f(x):\n    return U
N = 0\ndel N\ndef f(x):\n    return U
try:\n    1 / 0\nexcept ZeroDivisionError as N:\n    pass\ndef f(x):\n    return U
def g():\n    global N\n    N = 0\ndef f(x):\n    return U
def g():\n    N = 0\n    def h():\n        nonlocal N\n        N = 1\ndef f(x):\n    return U
def g(y):\n    match y:\n        case [N, *_]:\n            return N\ndef f(x):\n    return U
def g(y):\n    if (N := y):\n        return N\ndef f(x):\n    return U
def g(y):\n    import math as N\ndef f(x):\n    return U
x = 1\nv = U\ndef N(*a):\n    return 0\ndef f(x):\n    return v
def h(x):\n    return U\nv = h(1)\nN = len\ndef f(x):\n    return v
def keep(g):\n    return 3\n@keep\ndef g(N):\n    pass\ndef f(x):\n    return U
def g(y=[N for N in 'ab']):\n    return y\ndef f(x):\n    return U
def f(x):\n    class C:\n        N = N\n        y = 1\n    return U
def f(x):\n    def g():\n        N = 1\n        return N\n    return (lambda: U)()
from functools import *\ndef g(*, N=None):\n    pass\ndef f(x):\n    return U
N: int\ndef f(x):\n    return U
def f(x, g=lambda x: U):\n    N = 0\n    return g(x)
""".strip().split("\n")
# Roads of their own: modules within modules, frames, text that names attributes, what a process's limits show.
OTHERS = r"""
return statistics.random.random() < 0.5
return statistics.NormalDist().samples(1)[0] > 0
return statistics.NormalDist(0, 1).samples(2)[0] > statistics.NormalDist(0, 1).samples(1)[0]
return dataclasses.sys.modules['os'].getpid() % 2
return dataclasses.inspect.os.getpid() % 2
return enum.sys.getsizeof(x) % 2 == enum.sys.modules['os'].getpid() % 2
return collections._sys.modules['time'].time_ns() // 1000 % 2
return textwrap.re.enum.sys.modules['os'].getpid() % 2
return typing.sys.modules['os'].getpid() % 2
return re._compiler._sre.__hash__() >> 4 & 1
return heapq.__loader__.__hash__() >> 4 & 1
return copy.deepcopy.__globals__['__builtins__']['hash']('Q') % 2
return f.__globals__['__builtins__']['hash']('Q') % 2
return f.__builtins__['hash']('Q') % 2
return (lambda: 0).__code__.__hash__() % 2
return (i for i in 'a').gi_frame.f_builtins['hash']('Q') % 2
try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    return e.__traceback__.tb_frame.f_builtins['id']([]) >> 26 & 1
return 'Q'.__hash__() % 2
return str.__hash__('Q') % 2
return super(A, A(1)).__hash__() >> 4 & 1
return operator.attrgetter('__ha' + 'sh__')('Q')() % 2
return operator.methodcaller('__hash__')('Q') % 2
return list(map(operator.methodcaller(*['__hash__']), ['Q']))[0] % 2
return [*map(operator.attrgetter, ['__hash__'])][0]('Q')() % 2
return functools.partial(getattr, 'Q')('__hash__')() % 2
h = A(0)\nfunctools.update_wrapper(h, f, ('__globals__',), ())\nreturn h.__globals__['__builtins__']['hash']('Q') % 2
w = functools.wraps(f)(A(0), assigned=('__' + 'builtins__',), updated=())\nreturn w.__builtins__['hash']('Q') % 2
@functools.wraps(statistics)\ndef g(): pass\nreturn g.random.random() < 0.5
def g(y: "a.append(hash('Q') % 2)"): pass\na = []\ntyping.get_type_hints(g, {'a': a})\nreturn a[0]
g = functools.singledispatch(len)\ndef h(y: "[print(hash('Q')), int][1]"): pass\nreturn g.register(h) and id(g) % 2
return typing.ForwardRef("hash('Q')")._evaluate({}, {}, frozenset()) % 2
return dataclasses.make_dataclass('C', [('a', int)]).__hash__.__hash__() % 2
return string.Formatter().get_field('0.__hash__', ['Q'], {})[0]() % 2
return '{0.__init__}'.format([])[-8] > '7'
return '{0.append}'.format([])[-8] > '7'
t = '{0.' + 'app' + 'end}'\nreturn t.format([])[-8] > '7'
t = '{0.__str__}'\nreturn t.format_map({'0': 1})[-8:] > '8'
return str.format('{0.append}', [])[-8] > '7'
match (i for i in 'a'):\n    case object(gi_frame=g): return g.f_builtins['hash']('Q') % 2
match 'Q':\n    case str(__hash__=h): return h() % 2
match x:\n    case object(__class__=c): return str(c.__subclasses__)[-8] > '7'
class P:\n    __match_args__ = ('__ha' + 'sh__',)\nmatch P():\n    case P(h): return h() >> 4 & 1
m = {}\ncopy.deepcopy([[]], m)\nreturn max(k for k in m) >> 26 & 1
class D:\n    def __deepcopy__(self, memo): return list(memo)\nreturn copy.deepcopy([D()])[0][0] >> 26 & 1
return ().__class__.__base__.__subclasses__()[7].__hash__(f) % 2
return type('E', (), {'__del__': lambda s: 0})().__hash__() >> 4 & 1
return [].__sizeof__().__hash__() + (lambda: 0).__hash__() % 2
return A.__dict__['__init__'].__hash__() >> 4 & 1
return A(0).__reduce__.__hash__() % 2
return abc.ABC._abc_impl.__hash__() >> 4 & 1
return functools._lru_cache_wrapper.__hash__(f) >> 4 & 1
a = []\ntry:\n    while 1: a.append(bytearray(3 << 20))\nexcept MemoryError:\n    return len(a) % 2
a = []\ntry:\n    while 1: a.append(' ' * (3 << 20))\nexcept Exception:\n    return len(a) % 2
a = []\ntry:\n    while 1: a.append(' ' * (5 << 20))\nexcept:\n    return len(a) % 2
a = [0]\ndef g():\n    a[0] += 1\n    g()\ntry: g()\nexcept RecursionError: return a[0] % 2 == id(a) % 2
a = [0]\ndef g():\n    a[0] += 1\n    g()\ntry: g()\nexcept RuntimeError: return a[0] % 2
a = [0]\ndef g():\n    a[0] += 1\n    g()\ntry: g()\nfinally: return a[0] % 2
""".strip().split("\n")
OBJECTS = """
object() | lambda: 0 | f | (i for i in 'ab') | [].append | 'a'.upper | A(1) | A(1).m | map(len, []) | iter([]) | zip()
enumerate([]) | reversed('a') | filter(None, []) | defaultdict(lambda: 0) | functools.partial(f) | g() | {}.keys
itertools.chain([]) | string.Template('') | textwrap.TextWrapper() | json.JSONEncoder() | [].__len__ | [].__iter__()
functools.lru_cache(f) | A(1).__init__ | collections.deque([f]) | dataclasses.MISSING | property(f) | staticmethod(f)
""".strip().replace("\n", " | ").split(" | ")
TEXTS = """
str(O) | repr(O) | ascii(O) | format(O) | f'{O}' | f'{O!r}' | '%s' % (O,) | '%r' % [O] | '{}'.format(O) | str([O])
str((O, 1)) | repr({1: O}) | ''.join(map(str, [O])) | ' '.join([repr(y) for y in [O]]) | str(KeyError(O)) | show(O)
str(dict(a=O)) | str(collections.deque([O])) | '%(a)s' % {'a': O} | str(copy.copy([O])) | json.dumps([O], default=str)
O.__repr__() | O.__str__() | object.__repr__(O)
""".strip().replace("\n", " | ").split(" | ")
BITS = """
int(re.search('0x([0-9a-f]+)', T)[1], 16) >> B & 1 | re.search('0x([0-9a-f]+)', T)[1][-8] > '7'
sum(int(c, 16) for c in re.findall('0x([0-9a-f]+)', T)[0]) % 2 | T.count('0') % 2
len([c for c in T[T.index('0x'):] if c.isdigit()]) % 2 | ord(T[T.index('0x') + 7]) % 2
""".strip().replace("\n", " | ").split(" | ")
MODULES = ("abc bisect collections collections.abc copy dataclasses enum functools heapq itertools json math operator"
           " re statistics string textwrap typing").split()
HELPERS = {  # a name that a program holds, and what it then begins with
    "A(": "class A:\n    def __init__(self, n):\n        self.n = n\n    def m(self):\n        return self.n",
    "A.": "A = type(Exception())", "g()": "def g():\n    yield 1", "show(": "def show(y):\n    return str(y)",
    "defaultdict": "from collections import defaultdict"}


def words(rng: random.Random) -> list[str]:
    made = {}
    while len(made) < 7:
        made["".join(rng.choices(string.ascii_letters, k=rng.randint(1, 6)))] = 0
    return list(made)[:rng.randint(2, 7)]


def with_helpers(program: str) -> str:
    """Behind the imports and helpers whose names it holds."""
    helpers = [text for name, text in HELPERS.items() if name in program and not (name == "A." and "A(" in program)]
    modules = [f"import {module}" for module in MODULES if f"{module}." in program or f"({module})" in program]
    return "\n".join([*modules, *helpers, program])


def body(text: str) -> str:
    return "def f(x):\n" + "\n".join("    " + line for line in text.replace("\\n", "\n").split("\n"))


def of_set(rng: random.Random) -> str:
    return body(rng.choice(SETS).replace("W", repr(words(rng))))


def of_builtin(rng: random.Random) -> str:
    name = rng.choice(list(BUILTINS))
    use = rng.choice(BUILTINS[name]).replace("Q", rng.choice(words(rng)))
    return rng.choice(SHADOWS).replace("\\n", "\n").replace("N", name).replace("U", use)


def of_other(rng: random.Random) -> str:
    return body(rng.choice(OTHERS).replace("'Q'", repr(rng.choice(words(rng)))))


def of_address(rng: random.Random) -> str:
    made = rng.choice(OBJECTS)
    text = rng.choice(TEXTS).replace("O", f"({made})")
    if rng.random() < 0.5:  # by a variable
        return body(f"o = {made}\nt = {rng.choice(TEXTS).replace('O', 'o')}\n"
                    f"return {rng.choice(BITS).replace('T', 't').replace('B', str(rng.randint(24, 32)))}")
    return body(f"t = {text}\nreturn {rng.choice(BITS).replace('T', 't').replace('B', str(rng.randint(24, 32)))}")


KINDS = (of_set, of_builtin, of_other, of_address)


def draw(seed: int) -> Iterator[str]:
    rng, seen = random.Random(seed), set()
    while True:
        program = with_helpers(rng.choice(KINDS)(rng))
        if program not in seen:
            seen.add(program)
            yield program

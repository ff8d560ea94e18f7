"""Whether a program's value can hang on anything but its input, judged on its syntax tree before it runs.

A program that is random in one bit agrees with itself in two runs half the time, and is solved half the time for ever:
the most rewarding task there is.  So what can reach a clock, a random generator, a hash, an address or the limits of
the process is refused here, by every road that Python has to it; README.md says what and why.  What no look at the
tree can tell is left to runs in processes with different hashes, addresses and limits, and for the text of an object to
one that is watched: `judge` says whether a program needs them.

Names mean what Python's scopes say: `id` is the builtin unless it is bound where it is looked up.
"""
import ast
import builtins
import importlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType

ALLOWED_IMPORTS = (
    "math", "re", "itertools", "functools", "collections", "string", "heapq", "bisect", "operator", "typing",
    "dataclasses", "copy", "json", "statistics", "fractions", "decimal", "cmath", "enum", "abc", "textwrap", "numbers",
)
MODULES = {*ALLOWED_IMPORTS, "collections.abc"}  # other submodules are no public interface

UNSTABLE, IMPORT = "not deterministic", "import not allowed"  # reasons; `why` says more
ADDRESS = "is an address or a hash, which differ from process to process"
TEXT = "reaches names through text, which cannot be judged before it runs"
OUTSIDE = "reads what is outside the program"
LIMITS = "shows where the memory or the stack of the process ends"
MEMORY = "is called when the memory manager wants it"
RANDOM = "draws random numbers"
PRIVATE = "is private: it may lead to other modules, frames or addresses"

# Builtins, names of modules' public interfaces, and methods of the program's own, that are refused wherever they stand.
REFUSED = {name: why for why, names in {
    ADDRESS: "hash id memoryview __deepcopy__",  # the keys of __deepcopy__'s memo are addresses
    TEXT: "eval exec compile globals locals vars __build_class__ __builtins__ __loader__ __spec__ __annotations__"
          " __dataclass_fields__ __instancecheck__ __subclasscheck__ __subclasshook__"
          " dataclasses.make_dataclass enum.global_enum enum.global_enum_repr enum.global_flag_repr enum.global_str"
          " functools.singledispatch functools.singledispatchmethod functools.update_wrapper string.Formatter"
          " typing.ForwardRef typing.get_type_hints",
    OUTSIDE: "open input breakpoint help abc.get_cache_token",
    LIMITS: "MemoryError RecursionError",
    MEMORY: "__del__",
    RANDOM: "statistics.NormalDist statistics.kde_random",
}.items() for name in names.split()}
# What takes names as text is allowed where the texts stand there: the positions of these, of all where there are none.
NAMED = {"getattr": (1,), "setattr": (1,), "delattr": (1,), "hasattr": (1,), "operator.methodcaller": (0,),
         "operator.attrgetter": ()}
ONE_ARGUMENT = {"type": TEXT, "copy.deepcopy": ADDRESS}  # with more: a class made of texts; a memo, whose keys are ids
DECORATORS = {"functools.wraps", "dataclasses.dataclass"}  # of what is written there: else they take names as text
METACLASSES = {"abc.ABCMeta", "enum.EnumMeta", "enum.EnumType"}

# Attributes of generators, coroutines, tracebacks, frames and code.
FRAMES = {f"{kind}_{what}" for kind, names in {
    "gi": "frame code yieldfrom", "cr": "frame code await origin", "ag": "frame code await", "tb": "frame next lasti",
    "f": "back builtins code globals lasti locals trace"}.items() for what in names.split()}
PRIVATE_BY_NAME_ONLY = {"_asdict", "_fields", "_field_defaults", "_make", "_replace", "_generate_next_value_",
                        "_missing_", "_ignore_", "_name_", "_value_"}  # namedtuple and Enum
# Special names that may be read and called: operators, containers, conversions, what a class says of itself.
SPECIAL = {f"__{name}__" for name in """
    abs add and bool bytes call ceil complex contains delitem divmod enter eq exit float floor floordiv format ge
    getitem gt iadd iand ifloordiv ilshift imatmul imod imul index int invert ior ipow irshift isub iter itruediv ixor
    init_subclass le len length_hint lshift lt matmul missing mod mul ne neg next or pos pow radd rand rdivmod repr
    reversed rfloordiv rlshift rmatmul rmod rmul ror round rpow rrshift rshift rsub rtruediv rxor setitem str sub
    truediv trunc xor aenter aexit aiter anext await cause class context copy delete doc get init members name new notes
    post_init qualname set set_name slots suppress_context version wrapped""".split()}
# ... and those that a class may only define.
DEFINED = SPECIAL | {f"__{name}__" for name in """class_getitem debug delattr dir getattr getattribute getnewargs
    getnewargs_ex getstate hash match_args module mro_entries prepare reduce reduce_ex setattr setstate
    sizeof""".split()}
DATA = {"__cause__", "__class__", "__context__", "__doc__", "__members__", "__name__", "__qualname__", "__slots__"}
# Methods: without a call, their text is an address.
METHODS = {name for kind in (str, bytes, int, float, list, tuple, dict, set) for name in dir(kind)
           if not name.startswith("_") and callable(getattr(kind, name))} | SPECIAL - DATA
# What goes through an iterator, or calls a function that is its first argument, and shows neither.
TAKERS = set("""Counter OrderedDict all any chain deque delattr dict dropwhile enumerate extend filter filterfalse
    frozenset fromkeys getattr hasattr isinstance islice issubclass iter join len list map max min next reduce reversed
    set setattr sorted starmap sum super takewhile tuple type update zip""".split())
ITERATORS = {"__iter__", "__reversed__", "enumerate", "filter", "finditer", "iter", "map", "merge", "reversed", "zip"}
# Objects of these have no text but their address.
SHAPELESS = set("""object property dataclasses.MISSING dataclasses.field dataclasses.fields enum.auto json.JSONDecoder
    functools.cached_property functools.cmp_to_key functools.partialmethod json.JSONEncoder string.Template
    textwrap.TextWrapper""".split())
SETS = {"set", "frozenset", "KeysView", "ItemsView", "MappingView", "MutableSet"}
# Exceptions that are not those of the limits, nor wider ones.
NARROW = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)
          and not issubclass(RecursionError, kind) and not issubclass(MemoryError, kind)}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
# What runs no function of the program by itself.
QUIET = (ast.Import, ast.ImportFrom, ast.alias, ast.Assign, ast.AnnAssign, ast.Expr, ast.Pass, ast.Constant, ast.Name,
         ast.Attribute, ast.Subscript, ast.List, ast.Tuple, ast.Dict, ast.UnaryOp, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# Left out: they hold no name, and run nothing that the node around them does not. And nodes that hold no others.
WORDLESS = (ast.expr_context, ast.operator, ast.cmpop, ast.boolop)
LEAVES = {ast.Name, ast.Constant, ast.alias, ast.Pass, ast.Break, ast.Continue}
# The syntax nodes besides ast.Name that bind a name, and the attribute that holds it.
BINDS = {ast.arg: "arg", ast.FunctionDef: "name", ast.AsyncFunctionDef: "name", ast.ClassDef: "name",
         ast.ExceptHandler: "name", ast.MatchAs: "name", ast.MatchStar: "name", ast.MatchMapping: "rest"}


class Refused(Exception):
    """(reason, why): why the gate refuses a program."""


# ----------------------------------------------------------------------------------------------------------------
# Scopes: which variable a name means

@dataclass(eq=False)
class Scope:
    kind: str  # module, class, function, or comprehension (a function whose := binds in the scope around it)
    parent: "Scope | None" = None
    bound: Counter = field(default_factory=Counter)          # its names, and how often each is bound
    declared: dict[str, str] = field(default_factory=dict)   # its names that are global or nonlocal
    imports: dict[str, set] = field(default_factory=dict)    # its names that may mean `module` or `module.name`
    classes: set[str] = field(default_factory=set)           # its names that a class statement binds
    settled: dict[str, tuple] = field(default_factory=dict)  # of a module: from which place on a name is surely bound
    early: set[str] = field(default_factory=set)             # ... and which are before any function can have run


def owner(scope: Scope, name: str) -> Scope | None:
    """The scope whose variable the name means; None where it can only be a builtin's."""
    here = scope
    while here.parent:
        declared = here.declared.get(name)
        if declared == "global":
            break
        if name in here.bound and declared is None and (here is scope or here.kind != "class"):
            return here
        here = here.parent
    while here.parent:
        here = here.parent
    return here if name in here.bound else None


def children(node: ast.AST, scope: Scope) -> Iterator[tuple[ast.AST, Scope]]:
    """Each with the scope in which its names are looked up."""
    inner, inside = scope, ()
    if isinstance(node, FUNCTIONS):
        inner, inside = Scope("function", scope), ("body",)
        arguments = node.args
        for arg in (*arguments.posonlyargs, arguments.vararg, *arguments.args, *arguments.kwonlyargs, arguments.kwarg):
            if arg:
                yield arg, inner
    elif isinstance(node, ast.ClassDef):
        inner, inside = Scope("class", scope), ("body",)
    elif isinstance(node, COMPREHENSIONS):
        inner, inside = Scope("comprehension", scope), ("elt", "key", "value")
        for generator in node.generators:
            yield generator.target, inner
            yield generator.iter, scope if generator is node.generators[0] else inner
            yield from ((test, inner) for test in generator.ifs)
    for name in node._fields:
        value, at = getattr(node, name, None), inner if name in inside else scope
        if name == "annotation" and type(node) is ast.arg:
            at = scope.parent
        elif name == "target" and type(node) is ast.NamedExpr:
            while at.kind == "comprehension":
                at = at.parent
        elif name == "generators":
            continue
        for child in value if isinstance(value, list) else (value,):
            if isinstance(child, ast.arguments):
                yield from ((default, scope) for default in (*child.defaults, *child.kw_defaults) if default)
            elif isinstance(child, ast.AST) and not isinstance(child, WORDLESS):
                yield child, at
    for parameter in getattr(node, "type_params", ()):
        inner.bound[parameter.name] += 1


def walk(tree: ast.Module) -> tuple[list[tuple[ast.AST, ast.AST, Scope]], Scope]:
    """All (node, its parent, its scope), parents first, with the names of every scope; and the module's scope."""
    module, nodes, imported = Scope("module"), [], []
    stack = [(tree, tree, module)]
    while stack:
        node, parent, scope = stack.pop()
        nodes.append((node, parent, scope))
        if type(node) not in LEAVES:
            stack += reversed([(child, node, at) for child, at in children(node, scope)])
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            scope.declared |= dict.fromkeys(node.names, type(node).__name__.lower())
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            imported += [(scope, *binding) for binding in imports(node)]
    for node, _, scope in nodes:
        if name := bound_name(node):
            place = module if scope.declared.get(name) == "global" else scope
            place.bound[name] += 1
            if isinstance(node, ast.ClassDef):
                place.classes.add(name)
    for scope, name, _ in imported:
        (module if scope.declared.get(name) == "global" else scope).bound[name] += 1
    for scope, name, meaning in imported:
        (owner(scope, name) or scope).imports.setdefault(name, set()).add(meaning)
    settle(tree, nodes, module)
    return nodes, module


def bound_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id if not isinstance(node.ctx, ast.Load) else None
    return getattr(node, BINDS.get(type(node), ""), None)


def imports(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """(name that is bound, what it means); Refused for what may not be imported."""
    for alias in node.names:
        module = alias.name if isinstance(node, ast.Import) else "." if node.level else node.module
        if module not in MODULES:
            raise Refused(IMPORT, f"{module} is not one of the modules that programs may import")
        if isinstance(node, ast.Import):
            yield (alias.asname, module) if alias.asname else (module.split(".")[0],) * 2
            continue
        for name in public(module) if alias.name == "*" else [alias.name]:
            if exists(module, name) and name not in public(module):
                raise Refused(IMPORT, f"{module}.{name} is not in the module's public interface")
            yield alias.asname or name, f"{module}.{name}"


def is_quiet(node: ast.AST) -> bool:
    """Whether a part of the module's or a class's own code runs no function of the program."""
    if isinstance(node, ast.FunctionDef):
        return not node.decorator_list and node.name != "__class_getitem__"
    return isinstance(node, QUIET) or isinstance(node, ast.ClassDef) and not (
        node.bases or node.keywords or node.decorator_list)


def settle(tree: ast.Module, nodes: list, module: Scope) -> None:
    """From where on the module's own names hide builtins for sure: elsewhere they may be unbound, or unbound again."""
    quiet, begun = set(), tree
    for node, parent, scope in nodes[1:]:
        if parent is tree:
            begun = node
            quiet.add(begun)
        if scope.kind != "function" and not is_quiet(node):
            quiet.discard(begun)
            break
    for statement in tree.body:
        names, after = [], (statement.end_lineno, statement.end_col_offset)
        if isinstance(statement, ast.FunctionDef) and not statement.decorator_list:
            names, after = [statement.name], (statement.body[0].lineno, statement.body[0].col_offset)
        elif isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            names = [statement.name]
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            names = [name for name, _ in imports(statement)]
        elif isinstance(statement, ast.Assign):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        for name in names:
            module.settled.setdefault(name, after)
        module.early |= set(names) if statement in quiet else set()
    for node, _, scope in nodes:
        if isinstance(node, ast.ExceptHandler) or isinstance(node, ast.Name) and isinstance(node.ctx, ast.Del):
            name = bound_name(node)
            if name and owner(scope, name) is module:
                module.settled.pop(name, None)
                module.early.discard(name)


@cache
def public(module: str) -> frozenset[str]:
    """The names of a module's public interface."""
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", None) or [name for name in dir(loaded) if not name.startswith("_")]
    return frozenset(name for name in names
                     if not isinstance(getattr(loaded, name, None), ModuleType) or f"{module}.{name}" in MODULES)


def exists(module: str, name: str) -> bool:
    return hasattr(importlib.import_module(module), name)


def hides_builtin(place: Scope | None, node: ast.Name, scope: Scope) -> bool:
    """Whether the variable at its place is sure to be bound: that of a class or module may not be yet, or any more."""
    if place is None or place.kind != "module":
        return place is not None and place.kind != "class"
    while scope.kind in ("class", "comprehension"):
        scope = scope.parent
    return (node.lineno, node.col_offset) >= place.settled.get(node.id, (float("inf"),)) or \
        node.id in place.early and scope.kind == "function"


def meanings(node: ast.AST, scope: Scope) -> set[str]:
    """What an expression may mean besides the program's own things: a module, its name (`math.pi`), a builtin."""
    names = []
    while isinstance(node, ast.Attribute) and len(names) < 2:  # collections.abc.Mapping
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return set()
    place = owner(scope, node.id)
    found = set(place.imports.get(node.id, ())) if place else set()
    if hasattr(builtins, node.id) and not hides_builtin(place, node, scope):
        found.add(node.id)
    for name in reversed(names):
        found = {f"{module}.{name}" for module in found if module in MODULES}
    return found


# ----------------------------------------------------------------------------------------------------------------
# The judgement

def judge(tree: ast.Module) -> str:
    """What may show in a program's value, so that it is to be run in more processes: "address" (or anything else),
    "order" (or where memory and stack end), or "" for nothing. Refused where it is to be refused."""
    nodes, _ = walk(tree)
    own = own_names(nodes)
    excused = set()  # expressions that may stand where their parent has them
    for node, parent, scope in nodes:
        check(node, parent, scope, own, excused)
    return may_show(nodes, own)


def own_names(nodes: list) -> set[str]:
    """The attributes that the program itself gives to its objects."""
    names = set()
    for node, parent, scope in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            names |= {arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant)}
        elif scope.kind == "class" and (name := bound_name(node)):
            names.add(name)
        elif isinstance(node, ast.Constant) and isinstance(parent, (ast.Tuple, ast.List)) and scope.kind == "class":
            names.add(node.value)  # __slots__
    return names


def check(node: ast.AST, parent: ast.AST, scope: Scope, own: set[str], excused: set[ast.AST]) -> None:
    """Refused where this node is a reason to refuse the program."""
    name = node.asname if isinstance(node, ast.alias) else bound_name(node)
    if name and (is_special(name) and (name in REFUSED or name not in DEFINED)
                 or name == "__match_args__" and not isinstance(parent, ast.Assign)
                 or name in FRAMES and scope.kind == "class"):
        raise Refused(UNSTABLE, f"{name} {REFUSED.get(name, PRIVATE)}")
    match node:
        case ast.Name(ctx=ast.Load()) | ast.Attribute():
            if isinstance(node, ast.Attribute):
                check_attribute(node.attr, own)
            elif is_special(node.id) and node.id not in DEFINED:
                raise Refused(IMPORT if node.id == "__import__" else UNSTABLE, f"{node.id} {PRIVATE}")
            check_reference(node, parent, meanings(node, scope), excused)
        case ast.Call():
            check_call(node, meanings(node.func, scope), own, excused)
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            check_definition(node, scope, excused)
        case ast.MatchClass(kwd_attrs=attributes):
            for attribute in attributes:
                check_attribute(attribute, own)
        case ast.Assign(targets=[ast.Name(id="__match_args__"), *_], value=value):
            for attribute in literal_names(value.elts if isinstance(value, ast.Tuple) else [value]):
                check_attribute(attribute, own)


def is_special(name: str) -> bool:
    return len(name) > 4 and name.startswith("__") and name.endswith("__")


def check_attribute(name: str, own: set[str]) -> None:
    if name in FRAMES:
        raise Refused(UNSTABLE, f".{name} {PRIVATE}")
    if name.startswith("_") and name not in SPECIAL | PRIVATE_BY_NAME_ONLY and (is_special(name) or name not in own):
        raise Refused(UNSTABLE, f".{name} {PRIVATE}")


def check_reference(node: ast.expr, parent: ast.AST, found: set[str], excused: set[ast.AST]) -> None:
    for name in found:
        if name in REFUSED:
            raise Refused(UNSTABLE, f"{name} {REFUSED[name]}")
        if name in MODULES and isinstance(parent, ast.Attribute):
            check_interface(name, parent)
        elif name in MODULES:
            raise Refused(UNSTABLE, f"the module {name} is used as a value, so its private names can be reached")
        elif node not in excused and (name in NAMED or name in DECORATORS):
            raise Refused(UNSTABLE, f"{name} {TEXT}")
        elif node not in excused and name == "copy.deepcopy":
            raise Refused(UNSTABLE, f"{name} with other than one argument {ONE_ARGUMENT[name]}")


def check_interface(module: str, attribute: ast.Attribute) -> None:
    if not isinstance(attribute.ctx, ast.Load):
        raise Refused(UNSTABLE, f"{module}.{attribute.attr} is changed, and modules outlive a call")
    name = f"{module}.{attribute.attr}"
    if exists(module, attribute.attr) and attribute.attr not in public(module) and name not in MODULES:
        raise Refused(UNSTABLE, f"{name} is not in the module's public interface")


def check_call(node: ast.Call, found: set[str], own: set[str], excused: set[ast.AST]) -> None:
    for attribute in format_attributes(node.func):
        check_attribute(attribute, own)
    for name in found & ONE_ARGUMENT.keys():
        if len(node.args) != 1 or node.keywords or isinstance(node.args[0], ast.Starred):
            raise Refused(UNSTABLE, f"{name} with other than one argument {ONE_ARGUMENT[name]}")
        excused.add(node.func)
    for name in found & NAMED.keys():
        texts = [node.args[at] for at in NAMED[name] if at < len(node.args)] if NAMED[name] else node.args
        for attribute in [part for text in literal_names(texts) for part in text.split(".")]:
            if name != "hasattr":  # which says no more than yes or no
                check_attribute(attribute, own)
        excused.add(node.func)


def format_attributes(node: ast.AST) -> list[str]:
    """The attributes that a text with a method looks up: of '{0.real}'.format, real."""
    match node:
        case ast.Attribute(attr="format" | "format_map", value=ast.Constant(value=str(text))):
            return [name for part in re.findall(r"\{([^{}]*)", text) for name in re.findall(r"\.\s*([^\W\d]\w*)", part)]
    return []


def check_definition(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope, excused: set) -> None:
    is_class = isinstance(node, ast.ClassDef)
    for decorator in node.decorator_list:
        called = isinstance(decorator, ast.Call)
        function = decorator.func if called else decorator
        found = meanings(function, scope)
        if "dataclasses.dataclass" in found and not (
                is_class and decorator is node.decorator_list[-1] and not node.keywords
                and all(is_written_out(base, scope) for base in node.bases)):
            raise Refused(UNSTABLE, f"dataclass of a class that is not written out {TEXT}")  # it makes code of fields
        if "functools.wraps" not in found or called and len(decorator.args) == 1 and not decorator.keywords:
            excused.add(function)
    for keyword in node.keywords if is_class else ():
        if keyword.arg == "metaclass" and not meanings(keyword.value, scope) & METACLASSES or keyword.arg is None:
            raise Refused(UNSTABLE, f"a metaclass {TEXT}")
    if is_class and any(meanings(base, scope) & (METACLASSES | {"type"}) for base in node.bases):
        raise Refused(UNSTABLE, f"a metaclass {TEXT}")


def is_written_out(base: ast.expr, scope: Scope) -> bool:
    """Whether a base class is a class statement's, or a module's."""
    if isinstance(base, ast.Subscript):  # typing.Generic[T]
        base = base.value
    if meanings(base, scope):
        return True
    place = owner(scope, base.id) if isinstance(base, ast.Name) else None
    return place is not None and base.id in place.classes and place.bound[base.id] == 1


def literal_names(nodes: list[ast.expr]) -> list[str]:
    if not nodes or not all(isinstance(node, ast.Constant) and isinstance(node.value, str) for node in nodes):
        raise Refused(UNSTABLE, f"a name that is not written there as text {TEXT}")
    return [node.value for node in nodes]


# ----------------------------------------------------------------------------------------------------------------
# Whether hashes, addresses or limits may show

def may_show(nodes: list, own: set[str]) -> str:
    """Generous: more runs cost little, and refuse nothing that is the same in all of them."""
    objects = {name for node, parent, _ in nodes if (name := object_name(node, parent))}
    if any(address_shows(node, parent, scope, own, objects) for node, parent, scope in nodes):
        return "address"
    shows = any(order_shows(node, parent) or limit_shows(node, scope) for node, parent, scope in nodes)
    return "order" if shows else ""


def order_shows(node: ast.AST, parent: ast.AST) -> bool:
    """Whether there is a set, or a view of a dict that operators make sets of."""
    match node:
        case ast.Set() | ast.SetComp():
            return not (isinstance(parent, ast.Compare) and isinstance(parent.ops[0], (ast.In, ast.NotIn)))
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name) if name in SETS:
            return True
        case ast.Attribute(attr="keys" | "items") | ast.Constant(value="keys" | "items"):
            return not (isinstance(parent, ast.Call) and parent.func is node)
        case ast.Call(func=ast.Attribute(attr="keys" | "items")):
            return isinstance(parent, ast.Attribute) or not is_taken(node, parent)
    return False


def limit_shows(node: ast.AST, scope: Scope) -> bool:
    """Whether it may go on after the memory or the stack has ended."""
    match node:
        case ast.ExceptHandler(type=caught):
            kinds = caught.elts if isinstance(caught, ast.Tuple) else [caught]
            return not all(isinstance(kind, ast.Name) and kind.id in NARROW and owner(scope, kind.id) is None
                           for kind in kinds)
        case ast.Try(finalbody=[_, *_]) | ast.TryStar(finalbody=[_, *_]):
            return True
        case ast.FunctionDef(name="__exit__" | "__aexit__"):
            return True
    return False


def object_name(node: ast.AST, parent: ast.AST) -> str | None:
    """A name that the program gives to a function, class or iterator."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return node.name
    if isinstance(parent, ast.Assign) and node is parent.value and is_object(node) and len(parent.targets) == 1:
        return getattr(parent.targets[0], "id", None)
    return None


def is_object(node: ast.AST) -> bool:
    """Whether its text is sure to hold an address."""
    match node:
        case ast.Lambda() | ast.GeneratorExp():
            return True
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in ITERATORS
        case ast.Attribute(attr=name, ctx=ast.Load()):
            return name in METHODS
    return False


def is_taken(node: ast.AST, parent: ast.AST) -> bool:
    """Whether the parent calls a function, goes through an iterator, or hands it to what does, and shows neither."""
    match parent:
        case ast.Call(func=function, args=[*arguments]):
            name = getattr(function, "id", getattr(function, "attr", ""))
            first = bool(arguments) and node is arguments[0]
            return node is function or name in TAKERS and (first or isinstance(node, (ast.Call, ast.GeneratorExp)))
        case ast.keyword(arg="key"):
            return True
        case ast.Assign(targets=[ast.Name()]):
            return is_object(node)  # from now on the name stands for it
        case ast.For(iter=at) | ast.AsyncFor(iter=at) | ast.Attribute(value=at) | ast.Subscript(value=at):
            return node is at
        case ast.ListComp(generators=loops) | ast.SetComp(generators=loops) | ast.DictComp(generators=loops) | \
                ast.GeneratorExp(generators=loops):
            return any(node is loop.iter for loop in loops)
        case ast.Compare(ops=[ast.In() | ast.NotIn() | ast.Is() | ast.IsNot()]):
            return True
    return isinstance(parent, (ast.FunctionDef, ast.ClassDef, ast.Starred, ast.YieldFrom, ast.Await, ast.Expr, ast.arg,
                               ast.AnnAssign, ast.Raise, ast.ExceptHandler, ast.MatchClass))


def address_shows(node: ast.AST, parent: ast.AST, scope: Scope, own: set[str], objects: set[str]) -> bool:
    """Whether a function, an iterator or an object without a text of its own stands where its text may be taken."""
    match node:
        case ast.ClassDef(body=body):
            return not any(isinstance(part, ast.FunctionDef) and part.name == "__repr__" for part in body)
        case ast.Yield() | ast.YieldFrom() | ast.AsyncFunctionDef():
            return True
        case ast.Attribute(attr="format" | "format_map", value=value):  # its text may name attributes
            return not isinstance(value, ast.Constant) or bool(format_attributes(node))
        case ast.Constant(value="format" | "format_map") | ast.Attribute(attr="__repr__" | "__str__" | "__format__"):
            return True
        case ast.MatchClass(kwd_attrs=attributes):  # methods as values
            return not own.issuperset(attributes)
        case ast.Name(id=name, ctx=ast.Load()) if name in objects:
            return not is_taken(node, parent)
        case ast.Attribute(attr=name) if name in own:
            return False
        case ast.Name() | ast.Attribute() if not isinstance(parent, ast.Attribute):
            found = meanings(node, scope)
            if found & SHAPELESS and not isinstance(parent, (ast.FunctionDef, ast.ClassDef)) or \
                    is_itertool(found) and not is_taken(node, parent):
                return True
        case ast.Call(func=function) if not is_taken(node, parent):
            if is_itertool(meanings(function, scope)):
                return True
    return is_object(node) and not is_taken(node, parent)


def is_itertool(found: set[str]) -> bool:
    return any(name.startswith("itertools.") for name in found)


WATCH = """
def {name}(value, seen=[], kind=type, text=str, several=(list, tuple)):
    for part in value[:20] if kind(value) in several else [value]:
        if kind(part) is text and ' at 0x' in part:
            seen.append(part)
    return value
def {name}_f(*arguments, seen={name}.__defaults__[0]):
    try:
        f(*arguments)
    except:
        pass
    return seen != []
"""


class Watched(ast.NodeTransformer):
    """Hands every value that may be a new text to the function `watch`."""

    def __init__(self, watch: str):
        self.watch = watch

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, (ast.pattern, ast.arguments)):
            return node
        if isinstance(node, ast.FormattedValue):  # not its format, which has the form of a text
            node.value = self.visit(node.value)
            return node
        self.generic_visit(node)
        if isinstance(node, (ast.Call, ast.JoinedStr)) or \
                isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) or \
                isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id != "super":
            return ast.Call(ast.Name(self.watch, ast.Load()), [node], [])
        return node


def unused(program: str, name: str) -> str:
    """The name, longer where the program may hold it."""
    while name in program:
        name += "_"
    return name


def watched(program: str) -> list[str]:
    """[a program, the name of its function that calls f and says whether a text with an address was made on the way]"""
    name = unused(program, "watch")
    return [WATCH.format(name=name) + ast.unparse(Watched(name).visit(ast.parse(program))), f"{name}_f"]

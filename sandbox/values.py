"""Plain data on both sides of the sandbox: text that reads back, equality, and what trainer, worker and child send.

Plain data are None, bool, int, float, complex, str and bytes, and lists, tuples, sets, frozensets and dicts of them,
all of exactly these types: a subclass brings methods of its own.
"""
import collections
import json
import math
import re
import struct
from collections.abc import Callable, Collection

from sandbox.parsing import MAX_DEPTH, MAX_INT_BITS

MAX_VALUE = 64_000  # characters of one encoded value
ESCAPED = 12  # of them there are for one that `show` writes, at most: JSON's two escapes for one emoji
SCALARS = (type(None), bool, int, float, str)


def printable(text: str) -> str:
    """Model text for a terminal, a log or a page: what would move a cursor, change colours or turn the direction of
    writing becomes a question mark. New lines and tabs stay."""
    return "\n".join(line if line.replace("\t", " ").isprintable() else
                     "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line)
                     for line in text.split("\n"))


def ordered(values: Collection, write: Callable) -> list[str]:
    """write(element) of a set, in an order that does not depend on the hash seed. An element is written once: a second
    time for the sake of the order, at every level of nested sets, is exponential in their depth."""
    kinds = set(map(type, values))
    if kinds == {str} or kinds <= {int, float} and all(value == value for value in values):
        return list(map(write, sorted(values)))
    return sorted(map(write, values))


def show(value) -> str:
    """Text that parse_literal reads back to the same value, if within its limits.

    TypeError if the value is not plain data, ValueError for an int beyond 4,300 digits.
    """
    kind = type(value)
    if kind is float and not math.isfinite(value):
        return f"float('{value}')"
    if kind is complex and value.real == 0 and "-" in repr(value):
        return f"({value.real}{value.imag:+}j)"  # repr is not exact about the sign of zero here
    if kind in SCALARS or kind is complex or kind is bytes:
        return repr(value)
    if kind is list:
        return "[" + ", ".join(map(show, value)) + "]"
    if kind is tuple:
        return "(" + ", ".join(map(show, value)) + ("," if len(value) == 1 else "") + ")"
    if kind is dict:
        return "{" + ", ".join(f"{show(k)}: {show(v)}" for k, v in value.items()) + "}"
    if kind is set or kind is frozenset:
        inner = "{" + ", ".join(ordered(value, show)) + "}" if value else ""
        return f"frozenset({inner})" if kind is frozenset else inner or "set()"
    raise TypeError(f"{kind.__name__} is not plain data")


def canonical(value) -> tuple:
    """Hashable data that is equal for two values exactly where same_value says so."""
    kind = type(value)
    if kind in (type(None), bool, str, bytes):
        return kind.__name__, value
    if kind is complex and value.imag != 0:
        return "complex", canonical(value.real), canonical(value.imag)
    if kind in (int, float, complex):
        number = value.real
        return ("number", number) if number == number else ("nan",)
    if kind is list or kind is tuple:
        return (kind.__name__, *map(canonical, value))
    # Counted, because a set or dict can hold several nan.
    if kind is set or kind is frozenset:
        return "set", frozenset(collections.Counter(map(canonical, value)).items())
    if kind is dict:
        items = ((canonical(k), canonical(v)) for k, v in value.items())
        return "dict", frozenset(collections.Counter(items).items())
    raise TypeError(f"{kind.__name__} is not plain data")


def same_value(a, b) -> bool:
    """Whether two plain values are equal; TypeError for anything but exact builtin types.

    Numbers compare by value (1 == 1.0 == 1+0j, -0.0 == 0.0), but nan equals nan and a bool equals only a bool, also
    inside containers and as a dict key.  list != tuple and str != bytes; a set equals a frozenset of the same elements.
    Order counts in lists and tuples only.
    """
    return canonical(a) == canonical(b)


def check_hashes(items: Collection) -> None:
    """ValueError where many elements of a set or keys of a dict share a hash.

    Building and comparing those takes time in the square of their number: 1.2 s for 64 kB of frozensets.  Honest values
    share hashes in twos (-1 and -2).
    """
    if len(items) > 50 and max(collections.Counter(map(hash, items)).values()) > 50:
        raise ValueError("too many equal hashes")


# ----------------------------------------------------------------------------------------------------------------
# The wire format: JSON in which whatever JSON lacks is a list with a tag in front

TAGS = {list: "l", tuple: "t", set: "s", frozenset: "z", dict: "d"}
CONTAINERS = {tag: kind for kind, tag in TAGS.items()}
encode_scalar = json.JSONEncoder().encode
SURROGATE = re.compile("[\ud800-\udfff]")


def to_wire(value, most: int = MAX_VALUE) -> str:
    """Type-tagged JSON, `most` characters at most; TypeError: not plain data; ValueError: too big, deep or cyclic."""
    budget = most

    def walk(value, depth: int) -> str:
        nonlocal budget
        kind = type(value)
        sized = kind in TAGS or kind is str or kind is bytes
        budget -= 1 + (len(value) if sized else 0)  # before any work in proportion to the size
        if budget < 0:
            raise ValueError("value too big")
        if kind is int:
            if value.bit_length() <= 63:
                return repr(value)
            if value.bit_length() > MAX_INT_BITS:
                raise ValueError("integer too long")
            return f'["i","{value:#x}"]'
        if kind is str and not value.isascii() and SURROGATE.search(value):  # JSON makes one character of two of them
            return f'["u","{value.encode("utf-8", "surrogatepass").hex()}"]'
        if kind in SCALARS:
            return encode_scalar(value)
        if kind is bytes:
            return f'["b","{value.hex()}"]'
        if kind is complex:
            return f'["c",{encode_scalar(value.real)},{encode_scalar(value.imag)}]'
        if kind not in TAGS:
            raise TypeError("the value is not plain data")
        if depth == 0:
            raise ValueError("nested too deeply")
        if kind in (dict, set, frozenset):
            check_hashes(value)
        inner = depth - 1
        if kind is dict:
            items = [walk(item, inner) for pair in value.items() for item in pair]
        elif kind is list or kind is tuple:
            items = [walk(item, inner) for item in value]
        else:
            items = ordered(value, lambda item: walk(item, inner))
        return ",".join([f'["{TAGS[kind]}"', *items]) + "]"

    text = walk(value, MAX_DEPTH)
    if len(text) > most:
        raise ValueError("value too big")
    return text


def to_short_wire(value, most: int) -> str:
    """`to_wire` of a value that `show` may write in `most` characters; ValueError if it cannot.  Every element costs
    the trainer time, and a character at least, and the wire format a comma."""
    text = to_wire(value, min(MAX_VALUE, ESCAPED * most))
    if text.count(",") > most:
        raise ValueError("value too big")
    return text


def from_wire(tree, depth: int = MAX_DEPTH):
    """The value of a loaded JSON tree; raises some Exception for anything that to_wire cannot write."""
    if type(tree) in SCALARS:
        if type(tree) is int and tree.bit_length() > 63:
            raise ValueError("untagged long integer")
        return tree if tree == tree else float("nan")  # not json's own: two in a set are two
    tag, *rest = tree
    if tag in ("i", "b", "c", "u"):
        if tag == "c":
            return complex(*rest)
        (text,) = rest
        if tag == "u":
            return bytes.fromhex(text).decode("utf-8", "surrogatepass")
        value = int(text, 16) if tag == "i" else bytes.fromhex(text)
        if tag == "i" and value.bit_length() > MAX_INT_BITS:
            raise ValueError("integer too long")
        return value
    if depth == 0:
        raise ValueError("nested too deeply")
    items = [from_wire(item, depth - 1) for item in rest]
    if tag in ("d", "s", "z"):
        check_hashes(items[::2] if tag == "d" else items)
    if tag == "d":
        return dict(zip(items[::2], items[1::2], strict=True))
    return CONTAINERS[tag](items)


# ----------------------------------------------------------------------------------------------------------------
# What trainer, worker and child send each other
#
#     trainer -> worker   HEAD, then the job: JSON of [program, name of its function, whether the first failure ends it,
#                         most characters of a value, [encoded arguments of each call]]
#     child -> worker     per call a record: its length (4 bytes), JSON of [number of the call, kind, value or text]
#     worker -> trainer   FRAME, and after HELLO and DATA as many bytes as it says

HEAD = struct.Struct("!4sIIdd")  # MAGIC, bytes of the job that follows, calls, CPU seconds of one and of all
MAGIC = b"\0job"  # a job is JSON, which has no NUL: leftovers of a job never pass for a head
FRAME = struct.Struct("!cId")  # tag, size or exit status, CPU seconds so far
# What a frame brings: the layers that are missing; a child's bytes; a child's end, by itself or by the worker at the
# CPU limit or, asleep, at the wall limit.
HELLO, DATA, ENDED, SPENT, LATE = b"H", b"D", b"E", b"T", b"L"
MAX_RECORD = MAX_VALUE + 100  # bytes of one call's record
MAX_ERROR = 200  # characters of an error text
MAX_NAME = 100   # characters of the name of an exception's class in it


def is_name(text: str) -> bool:
    """Whether an error text can begin with this as the name of a class."""
    return len(text) <= MAX_NAME and text.isidentifier()

"""Plain data on both sides of the sandbox: text that reads back, equality, and what trainer, worker and child send.

Plain data are None, bool, int, float, complex, str and bytes, and lists, tuples, sets, frozensets and dicts of them,
all of exactly these types: a subclass brings methods of its own.
"""
import collections
import json
import math
import struct
from collections.abc import Collection

from sandbox.parsing import MAX_DEPTH, MAX_INT_BITS

MAX_VALUE = 64_000  # characters of one encoded value
SCALARS = (type(None), bool, int, float, str)


def printable(text: str) -> str:
    """Model text for a terminal, a log or a page: what would move a cursor, change colours or turn the direction of
    writing becomes a question mark. New lines and tabs stay."""
    return "\n".join(line if line.replace("\t", " ").isprintable() else
                     "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line)
                     for line in text.split("\n"))


def in_order(values: Collection) -> list:
    """The elements of a set in an order that does not depend on the hash seed."""
    kinds = set(map(type, values))
    if kinds == {str} or kinds <= {int, float} and all(value == value for value in values):
        return sorted(values)
    return sorted(values, key=show)


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
        inner = "{" + ", ".join(map(show, in_order(value))) + "}" if value else ""
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


def to_wire(value, most: int = MAX_VALUE) -> str:
    """Type-tagged JSON, `most` characters at most; TypeError: not plain data; ValueError: too big, deep or cyclic."""
    budget = most

    def walk(value, depth: int):
        nonlocal budget
        kind = type(value)
        sized = kind in TAGS or kind is str or kind is bytes
        budget -= 1 + (len(value) if sized else 0)  # before any work in proportion to the size
        if budget < 0:
            raise ValueError("value too big")
        if kind is int and value.bit_length() > 63:
            if value.bit_length() > MAX_INT_BITS:
                raise ValueError("integer too long")
            return ["i", hex(value)]
        if kind in SCALARS:
            return value
        if kind is bytes:
            return ["b", value.hex()]
        if kind is complex:
            return ["c", value.real, value.imag]
        if kind not in TAGS:
            raise TypeError("the value is not plain data")
        if depth == 0:
            raise ValueError("nested too deeply")
        if kind in (dict, set, frozenset):
            check_hashes(value)
        if kind is dict:
            items = [item for pair in value.items() for item in pair]
        else:
            items = in_order(value) if kind in (set, frozenset) else value
        return [TAGS[kind], *[walk(item, depth - 1) for item in items]]

    text = json.dumps(walk(value, MAX_DEPTH), separators=(",", ":"))
    if len(text) > most:
        raise ValueError("value too big")
    return text


def from_wire(tree, depth: int = MAX_DEPTH):
    """The value of a loaded JSON tree; raises some Exception for anything that to_wire cannot write."""
    if type(tree) in SCALARS:
        if type(tree) is int and tree.bit_length() > 63:
            raise ValueError("untagged long integer")
        return tree
    tag, *rest = tree
    if tag in ("i", "b", "c"):
        if tag == "c":
            return complex(*rest)
        (text,) = rest
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
#     trainer -> worker   HEAD, then the job: JSON of [program, name of its function, [encoded arguments of each call]]
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

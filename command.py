"""
What all commands share: what has to be set before torch is imported, how options are read, and how a command ends. A
command imports this file first.
"""
import argparse
import math
import os
import signal
import sys
from collections.abc import Callable

# Threads of OpenMP that wait for each other sleep. By default they spin, and where another process holds a core the
# one that all wait for does not run: see LOG.md for the seconds of a step.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class UserError(Exception):
    """What the user gave cannot work; the text is one line that says what is wrong and what to do."""


def starting(module: str) -> None:
    """Before the other imports of a command, whose `__name__` this is. They take seconds in which nothing is lost."""
    if module != "__main__":
        return
    if sys.version_info < (3, 11):
        sys.exit("Python 3.11 or newer is needed")
    if sys.flags.optimize > 1:
        sys.exit("python -OO drops the docstrings that transformers reads: leave -OO out")
    signal.signal(signal.SIGINT, end_at_once)
    sys.excepthook = missing_package
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, mode))
        getattr(sys, name).reconfigure(errors="backslashreplace")  # model text in a terminal that is not UTF-8


def end_at_once(number: int, frame) -> None:
    os.write(2, b"stopped before anything was begun\n")
    os._exit(130)


def missing_package(kind: type, error: BaseException, trace) -> None:
    if isinstance(error, ModuleNotFoundError):
        sys.exit(f"{error}: pip install -r requirements.txt, or call .venv/bin/python, which `make` makes")
    sys.__excepthook__(kind, error, trace)


def run(name: str, main: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """main(argv) and its exit status, None being 0. What a user can meet ends with one line: status 2 for what can be
    mended at once, 1 for memory and disk, 130 for Ctrl-C. An exception's notes are added to that line."""
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = main(argv)
        sys.stdout.flush()
        return status or 0
    except (Exception, KeyboardInterrupt) as error:
        status, text = ending(error)
        if status is None:
            raise
        notes = getattr(error, "__notes__", [])
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains of it once more when it ends
        if text or notes:
            print(f"{name}: {'; '.join(' '.join(part.split()) for part in (text, *notes))}", file=sys.stderr)
        return status


def ending(error: BaseException) -> tuple[int | None, str]:
    """(exit status, what to say); None for what should not happen and deserves a traceback."""
    match error:
        case UserError():
            return 2, str(error)
        case KeyboardInterrupt():
            return 130, "stopped"
        case BrokenPipeError():
            return 1, "nobody reads the output any more"
        case OSError():
            return 1, f"{error.strerror or error} ({error.filename or 'reading or writing'})"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return 1, f"out of memory ({(str(error).splitlines() or [''])[0]})"
    return None, ""


# ----------------------------------------------------------------------------------------------------------------
# Options

class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line. Names are never abbreviated: a later option could make one ambiguous."""
    def __init__(self, **settings):
        super().__init__(**{"allow_abbrev": False} | settings)

    def error(self, message: str):
        message = " ".join(message.split()).removeprefix("argument ").replace(": must be", " must be")
        self.exit(2, f"{self.prog}: {message}; --help lists all options\n")


def whole(least: int, most: int = 10**9) -> Callable[[str], int]:
    """The type of an option: a whole number from `least` to `most`."""
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number") from None
        return within(value, least, most)
    return number


def real(least: float, most: float = 1e9) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number") from None
        return within(value, least, most)
    return number


def within(value, least, most):
    if not least <= value <= most:  # nor is nan
        wanted = f"at least {least}" if value < least else f"at most {most}" if value > most else "a number"
        raise argparse.ArgumentTypeError(f"must be {wanted}")
    return value

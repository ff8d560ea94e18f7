"""
What all commands share: what has to be set before torch is imported, how options are read, and how a command ends. A
command imports this file first.
"""
import argparse
import difflib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path

HERE = Path(__file__).resolve().parent

# OpenMP's threads wait for each other thousands of times a second. By default they spin, and where another process
# holds a core they spin while the one that they wait for cannot run. Seconds of a small step of nano on two cores:
#                               quiet    one other process spins    one a core
#   default                       2.4        none in 60 s               -
#   GOMP_SPINCOUNT=10000          2.4            5.0                   8.2
#   OMP_WAIT_POLICY=PASSIVE       3.0            3.7                   5.8
WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}


def others_run() -> bool:
    """Whether other processes compute now: most of five looks within 20 ms find a runnable one."""
    found = 0
    for _ in range(5):
        with open("/proc/loadavg") as file:
            found += int(file.read().split()[3].split("/")[0]) > 1
        time.sleep(0.004)
    return found >= 3


def set_waiting(environment: MutableMapping[str, str]) -> None:
    """How threads wait, unless the user has said so. It changes seconds and nothing else."""
    if not WAITING & set(environment) and sys.platform == "linux":
        environment.update({"OMP_WAIT_POLICY": "PASSIVE"} if others_run() else {"GOMP_SPINCOUNT": "10000"})


set_waiting(os.environ)


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
        try:
            return main(argv) or 0
        finally:
            sys.stdout.flush()  # where nobody reads it, this tells
    except (Exception, KeyboardInterrupt) as error:
        status, text = ending(error)
        if status is None:
            raise
        notes = getattr(error, "__notes__", [])
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains of it once more when it ends
        if text or notes:
            from sandbox.values import printable  # at the top, Ctrl-C would find 60 ms more before `starting`
            line = "; ".join(" ".join(part.split()) for part in (text, *notes))
            print(printable(f"{name}: {line}"), file=sys.stderr)  # it may quote a file from anywhere
        return status


def is_memory(error: BaseException) -> bool:
    """Whether memory ran out, as Python, torch on CUDA and torch on a CPU, which has no class for it, tell it."""
    return (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
            or isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


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
    if is_memory(error):
        return 1, f"out of memory ({(str(error).splitlines() or [''])[0]})"
    return None, ""


# ----------------------------------------------------------------------------------------------------------------
# Options

class Help(argparse.RawDescriptionHelpFormatter):
    """A line an option where it fits into 120 columns, its default in brackets; the options are not listed twice."""
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=39, width=120)

    def add_usage(self, usage, actions, groups, prefix=None):
        if usage is None:
            words = [self._metavar_formatter(action, action.dest)(1)[0] + " ..." * (action.nargs == "+")
                     for action in actions if not action.option_strings]
            options = any(action.option_strings for action in actions)
            usage = " ".join(["%(prog)s", *words, *["[--OPTION VALUE ...]"] * options])
        super().add_usage(usage, actions, groups, prefix)

    def _get_default_metavar_for_optional(self, action):
        return getattr(action.type, "metavar", "PATH" if action.type is Path else "TEXT")

    def _get_help_string(self, action):
        default = "yes" if action.default is True else action.default
        if not action.help or not action.option_strings or default is None or default is False or \
                default in ("", argparse.SUPPRESS):
            return action.help
        shown = " ".join(default) if isinstance(default, list) else default
        shown = f"{default:g}" if type(default) is float else shown
        return f"{action.help} [{str(shown).replace(f'{HERE}/', '').replace('%', '%%')}]"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line. Names are never abbreviated: a later option could make one ambiguous."""
    def __init__(self, **settings):
        super().__init__(**{"allow_abbrev": False, "formatter_class": Help} | settings)
        self._negative_number_matcher = re.compile(r"-([.\d]|(inf|nan)$)")  # Python's takes -1e-3 for an option

    def parse_known_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else args
        if odd := [word for word in words if word.startswith("--") and word.endswith("=--")]:
            self.error(f"{odd[0]}: -- is no value")  # argparse makes an empty list of it
        return super().parse_known_args(words, namespace)

    def told(self, message: str) -> str:
        """argparse's message in the words of ours, with the option that an unknown one may stand for."""
        message = " ".join(message.split()).removeprefix("argument ").replace(": must be", " must be")
        unknown = re.match(r"unrecognized arguments: -+([^ =]+)", message)
        near = difflib.get_close_matches(f"--{unknown[1]}", self._option_string_actions, 1) if unknown else ()
        return f"{message} (is {near[0]} meant?)" if near else message

    def error(self, message: str):
        name = self.prog.removeprefix("python ").removeprefix("-m ")  # as `run` is told it
        self.exit(2, f"{name}: {self.told(message)}; --help lists all options\n")


def whole(least: int, most: int = 10**9) -> Callable[[str], int]:
    """The type of an option: a whole number from `least` to `most`."""
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number") from None
        return within(value, least, most)
    number.metavar = "N"
    return number


def real(least: float, most: float = 1e9) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number") from None
        return within(value, least, most)
    number.metavar = "X"
    return number


def within(value, least, most):
    if not least <= value <= most:  # nor is nan
        wanted = f"at least {least}" if value < least else f"at most {most}" if value > most else "a number"
        raise argparse.ArgumentTypeError(f"must be {wanted}")
    return value

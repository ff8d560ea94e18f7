"""The commands: python -m tools doctor | export | chat | show. Each lives in the file of its name, loaded only then."""
import command
command.starting(__name__)
import sys
from importlib import import_module

import tools

COMMANDS = ("doctor", "export", "chat", "show")


def main(argv: list[str]) -> int:
    return command.run(" ".join(["tools", *(name for name in argv[:1] if name in COMMANDS)]), work, argv)


def work(argv: list[str]) -> int:
    if argv[:1] in (["-h"], ["--help"]):
        print(tools.__doc__.strip())
        return 0
    if not argv or argv[0] not in COMMANDS:
        known = ", ".join(f"python -m tools {name} ..." for name in COMMANDS)
        print(f"tools: {f'no command {argv[0]!r};' if argv else 'which one?'} there are {known}", file=sys.stderr)
        return 2
    return import_module(f"tools.{argv[0]}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The commands: python -m tools doctor | export | chat | show. Each lives in the file of its name, loaded only then."""
import command
command.starting(__name__)
import sys
from importlib import import_module

import tools

COMMANDS = ("doctor", "export", "chat", "show")


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in COMMANDS:
        asked = argv[:1] in (["-h"], ["--help"])
        print(tools.__doc__.strip(), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    name, *words = argv
    return command.run(f"tools {name}", import_module(f"tools.{name}").main, words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

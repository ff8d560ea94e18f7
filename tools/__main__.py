"""The commands: python -m tools doctor | export | chat | show. Each lives in the file of its name, loaded only then."""
import sys
from importlib import import_module

import tools
from config import UserError, complain
from executor import ExecutorError

COMMANDS = ("doctor", "export", "chat", "show")


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in COMMANDS:
        asked = argv[:1] in (["-h"], ["--help"])
        print(tools.__doc__.strip(), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    name = argv[0]
    try:
        import_module(f"tools.{name}").main(argv[1:])
    except (UserError, ExecutorError) as error:
        complain(f"tools {name}: {error}")
        return 2
    except OSError as error:
        complain(f"tools {name}: {error.strerror or error} ({error.filename or 'reading or writing'})")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The command: python -m report runs/NAME ..."""
import argparse
import sys
import time
from pathlib import Path

import report
from config import UserError, complain
from executor import ExecutorError
from report.page import write_page
from sandbox import host


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m report", description=report.__doc__.strip().split("\n\n")[0],
                                     allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--out", type=Path, help="the page; report.html in the first run's folder if not given")
    parser.add_argument("--png", type=Path, metavar="DIR", help="write the plots as pictures too")
    parser.add_argument("--workers", type=int, default=min(2, host.cores()), help="executor processes")
    parser.add_argument("--require", choices=("kernel", "partial", "weak"), default="kernel",
                        help="the least sandbox to measure programs in")
    args = parser.parse_args(argv)
    out = args.out or args.runs[0] / "report.html"
    started = time.monotonic()
    try:
        write_page(list(dict.fromkeys(args.runs)), out, args.png, max(1, args.workers), args.require)
    except (UserError, ExecutorError) as error:
        complain(f"report: {error}")
        return 2
    except OSError as error:
        complain(f"report: {error.strerror or error} ({error.filename or out})")
        return 1
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

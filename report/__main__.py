"""The command: python -m report runs/NAME ..."""
import command
command.starting(__name__)
import sys
import time
from pathlib import Path

import report
from command import Parser, whole
from report.page import write_page
from sandbox import host


def work(argv: list[str]) -> None:
    parser = Parser(prog="python -m report", description=report.__doc__.strip().split("\n\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--out", type=Path, help="the page; report.html in the first run's folder if not given")
    parser.add_argument("--png", type=Path, metavar="DIR", help="write the plots as pictures too")
    parser.add_argument("--workers", type=whole(1, 1024), default=min(2, host.cores()), help="executor processes")
    parser.add_argument("--require", choices=("kernel", "partial", "weak"), default="kernel",
                        help="the least sandbox to measure programs in")
    args = parser.parse_args(argv)
    out = args.out or args.runs[0] / "report.html"
    started = time.monotonic()
    write_page(list(dict.fromkeys(args.runs)), out, args.png, args.workers, args.require)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s")


def main(argv: list[str]) -> int:
    return command.run("report", work, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

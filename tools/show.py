"""
Tasks and responses to read: those of a task file or of a run, listed, chosen and printed; and what the gate says of a
program given by hand.
"""
import argparse
import sys
from pathlib import Path

import runfolder
import tasks
from command import Parser, UserError, whole
from executor import Executor
from report.read import ROLES, read_samples
from sandbox.values import printable, show
from tasks import Task, arguments, fence

KINDS = ("propose", "probe", "solve")  # of responses; probes and solve are the solver's


def load_any(path: Path, executor: Executor) -> list[Task]:
    """The tasks of a task file, or the valid ones that a run's samples.jsonl holds; UserError says what is wrong."""
    if not path.is_dir():
        try:
            return tasks.load_tasks(str(path), executor)
        except ValueError as error:
            raise UserError(str(error)) from error
    rows = runfolder.read_lines(path / "samples.jsonl")
    return [task_of(row | {"line": number}, path) for number, row in enumerate(rows, 1) if "task" in row]


def task_of(row: dict, folder: Path) -> Task:
    try:
        if row["task"]["type"] not in tasks.TYPES:
            raise ValueError("unknown type")
        task = tasks.task_from_state(row["task"] | {"key": "", "depth": 0})
        if not 0 < len(task.inputs) == len(task.outputs):
            raise ValueError("inputs and outputs differ in number")
        return task
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'samples.jsonl'}, line {row['line']}: not a line that train.py wrote") from error


def task_text(task: Task) -> str:
    """The task as the solver sees it, with the answer below."""
    type = tasks.TYPES[task.type]
    shown = "\n".join(fence(*block) for block in type.show_task(task))
    return f"{task.type}, proposed in step {task.step}\n\n{shown}\n\nThe answer: {type.hidden(task)}"


def try_program(program: str, texts: list[str], executor: Executor) -> str:
    """What the gate says of a program with an input given by hand, in the words of the log."""
    response = "\n".join(["</think><answer>", fence("python", program.strip("\n")),
                         *(fence("input", text) for text in texts), "</answer>"])
    (result,) = tasks.gate([(tasks.DEDUCTION, response, None)], executor)
    if result.task is None:
        return f"gate: {result.reason}" + f": {result.why}" * bool(result.why)
    return f"gate: valid; output {show(result.task.outputs[0])}; depth {result.task.depth}; key {result.task.key[:16]}"


# ----------------------------------------------------------------------------------------------------------------
# The responses of a run

def between(text: str) -> tuple[float, float]:
    """"3" is 3 alone, "3:7" from 3 to 7, "3:" and ":7" are open."""
    low, colon, high = text.partition(":")
    try:
        return (float(low) if low else float("-inf"), float(high or "inf") if colon else float(low))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number and no range such as 3:7") from None


def task_id_of(row: dict) -> str:
    """Of the task that a response proposes or answers; "" of a proposal that the gate refused."""
    return tasks.task_id(row["task"]) if "task" in row else row.get("task_id", "")


def chosen(rows: list[dict], args: argparse.Namespace) -> list[dict]:
    """The responses that pass every filter that was given."""
    def passes(row: dict) -> bool:
        numbers = (("step", args.step), ("reward", args.reward), ("solve_rate", args.solve_rate), ("line", args.line))
        words = (("type", args.type), ("role", args.role), ("kind", args.kind), ("verdict", args.verdict))
        return (all(row.get(key) is not None and span[0] <= row[key] <= span[1] for key, span in numbers if span)
                and all(row.get(key) == word for key, word in words if word is not None)
                and (args.id is None or task_id_of(row).startswith(args.id))
                and (args.text is None or args.text in row["text"]))
    return [row for row in rows if passes(row)]


def head(row: dict) -> str:
    """The line of a response in a list."""
    code = row["task"]["program"] if "task" in row else row["text"].partition("<answer>")[2] or row["text"]
    reward = "-" if row.get("reward") is None else f"{row['reward']:.2f}"
    solved = "-" if row.get("solve_rate") is None else f"{row['solve_rate']:.2f}"
    return (f"{row['line']:>7}  {row['step']:>5}  {row['kind']:<8} {row['type']:<10} {reward:>6}  {solved:>6}"
            f"  {task_id_of(row)[:10]:<10}  {row['verdict'][:24]:<24}  {' '.join(code.split())[:60]}")


def response_text(row: dict, folder: Path, prompt: bool) -> str:
    """A response with all that is known of it."""
    facts = [f"line {row['line']} of samples.jsonl", f"step {row['step']}", f"{row['kind']} {row['type']}",
             f"verdict: {row['verdict']}", f"reward {row.get('reward')}"]
    facts += [f"{name.replace('_', ' ')} {row[name]}" for name in ("solve_rate", "advantage", "tokens", "finish")
              if row.get(name) is not None]
    facts += [f"task {task_id_of(row)}"] if task_id_of(row) else []
    facts += ["held out"] if row.get("heldout") else []
    parts = ["; ".join(facts)] + ([f"Prompt:\n{row['prompt']}"] if prompt else []) + [f"Response:\n{row['text']}"]
    parts += [f"The task: {task_text(task_of(row, folder))}"] if "task" in row else []
    return "\n\n".join(parts)


def show_responses(args: argparse.Namespace) -> None:
    """Of a run folder: a list of the chosen responses, or one of them."""
    if not args.source.is_dir():
        raise UserError("--list and filters are for run folders; of a task file --number picks a task")
    everything = read_samples(args.source / "samples.jsonl", 1)
    rows, verdicts = chosen(everything, args), sorted({row["verdict"] for row in everything})
    if args.verdict is not None and args.verdict not in verdicts:
        raise UserError(f"--verdict {args.verdict}: {args.source} has none; it has {', '.join(verdicts)}")
    if args.list:
        print(f"{'line':>7}  {'step':>5}  {'kind':<8} {'type':<10} {'reward':>6}  {'solved':>6}  {'task':<10}"
              f"  {'verdict':<24}  program or answer")
        for row in rows:
            print(printable(head(row)))
        print(f"{len(rows)} responses; --line N prints one, --id TASK what belongs to a task")
        return
    print(printable(response_text(pick(rows, args), args.source, args.prompt)))


def pick(rows: list, args: argparse.Namespace):
    """The one of them that --number says."""
    if not rows:
        raise UserError(f"{args.source}: nothing in it is of what was asked for")
    if not 1 <= abs(args.number) <= len(rows):
        raise UserError(f"--number {args.number}: {args.source} has {len(rows)} of them")
    return rows[args.number - (args.number > 0)]


# ----------------------------------------------------------------------------------------------------------------
# The command

def build_parser() -> Parser:
    parser = Parser(
        prog="python -m tools show", description=__doc__.strip(),
        epilog="Without a filter: a valid task as its solver sees it. Ranges: 3, 3:7, 3: and :7.")
    parser.add_argument("source", type=Path, help="a task file or a run folder")
    parser.add_argument("--number", type=whole(-10**9), default=1, help="which one, from 1; negative: from the end")
    parser.add_argument("--list", action="store_true", help="a line a response of the run")
    parser.add_argument("--type", choices=tasks.TYPES, help="only this task type")
    parser.add_argument("--role", choices=ROLES, help="only the proposer's or the solver's")
    parser.add_argument("--kind", choices=KINDS, help="only proposals, probes (they measure solve rates) or answers")
    parser.add_argument("--step", type=between, metavar="RANGE", help="only of these steps; 0 is seeding")
    parser.add_argument("--reward", type=between, metavar="RANGE", help="only with such a reward")
    parser.add_argument("--solve_rate", type=between, metavar="RANGE", help="only proposals solved so often, 0 to 1")
    parser.add_argument("--verdict", help="only these: correct, wrong, ... of answers; valid or a gate reason of"
                        " proposals, as metrics.jsonl counts them")
    parser.add_argument("--id", help="only the proposal of this task and the answers to it; its beginning is enough")
    parser.add_argument("--line", type=between, metavar="RANGE", help="only these lines of samples.jsonl")
    parser.add_argument("--text", help="only responses that hold this text")
    parser.add_argument("--prompt", action="store_true", help="print the prompt too")
    parser.add_argument("--program", type=Path, help="a file with a program of your own; - reads it from the terminal")
    parser.add_argument("--input", help="arguments of one call of its f; those of the task if not given")
    parser.add_argument("--require", choices=("kernel", "partial", "weak"), default="kernel", help="the least sandbox")
    return parser


def main(argv: list[str]) -> None:
    args = build_parser().parse_args(argv)
    filters = ("list", "type", "role", "kind", "step", "reward", "solve_rate", "verdict", "id", "line", "text",
               "prompt")
    if any(getattr(args, name) not in (None, False) for name in filters):
        if args.program or args.input:
            raise UserError("--program goes with a task that --number picks, not with filters")
        return show_responses(args)
    if args.input is not None and not args.program:
        raise UserError("--input goes with --program FILE")
    with Executor(1, require=args.require) as executor:
        task = pick(load_any(args.source, executor), args)
        print(printable(task_text(task)))
        if args.source.is_file() and (fault := tasks.check_tasks([task], executor)[0]):
            print(printable(f"\nNot a valid task: {fault}"))
        if args.program:
            given = sys.stdin.buffer.read() if str(args.program) == "-" else args.program.read_bytes()
            texts = [arguments(task.inputs[0]) if args.input is None else args.input]
            print(printable(f"\nYour program on {texts[0]}\n"
                            f"{try_program(given.decode(errors='replace'), texts, executor)}"))

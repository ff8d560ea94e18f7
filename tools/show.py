"""
A task as the solver sees it, and what the gate says of a program given by hand.
"""
import argparse
import sys
from pathlib import Path

import runfolder
import tasks
from config import UserError
from executor import Executor
from sandbox.values import show
from tasks import Task, arguments, fence


def printable(text: str) -> str:
    """Model text for a terminal: what would move its cursor or change its colours becomes a question mark."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def load_any(path: Path, executor: Executor) -> list[Task]:
    """The tasks of a task file, or the valid ones that a run's samples.jsonl holds; UserError says what is wrong."""
    if not path.is_dir():
        try:
            return tasks.load_tasks(str(path), executor)
        except ValueError as error:
            raise UserError(str(error)) from error
    loaded, file = [], path / "samples.jsonl"
    for number, line in enumerate(runfolder.read_lines(file), 1):
        if "task" in line:
            try:
                if line["task"]["type"] not in tasks.TYPES:
                    raise ValueError("unknown type")
                loaded.append(tasks.task_from_state(line["task"] | {"key": "", "depth": 0}))
                if not 0 < len(loaded[-1].inputs) == len(loaded[-1].outputs):
                    raise ValueError("inputs and outputs differ in number")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{file}, line {number}: not a line that train.py wrote") from error
    return loaded


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
        return f"gate: {result.reason}"
    return f"gate: valid; output {show(result.task.outputs[0])}; depth {result.task.depth}; key {result.task.key[:16]}"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools show", allow_abbrev=False,
                                     description="Show a task, and what the gate says of a program given by hand.")
    parser.add_argument("source", type=Path, help="a task file or a run folder")
    parser.add_argument("--number", type=int, default=1, help="which task, from 1; negative counts from the end")
    parser.add_argument("--program", type=Path, help="a file with a program of your own; - reads it from the terminal")
    parser.add_argument("--input", help="arguments of one call of its f; those of the task if not given")
    parser.add_argument("--require", choices=("kernel", "partial", "weak"), default="kernel", help="the least sandbox")
    args = parser.parse_args(argv)
    with Executor(1, require=args.require) as executor:
        loaded = load_any(args.source, executor)
        if not 1 <= abs(args.number) <= len(loaded):
            raise UserError(f"--number {args.number}: {args.source} has {len(loaded)} tasks")
        task = loaded[args.number - (args.number > 0)]
        print(printable(task_text(task)))
        if args.program:
            given = sys.stdin.buffer.read() if str(args.program) == "-" else args.program.read_bytes()
            texts = [arguments(task.inputs[0]) if args.input is None else args.input]
            print(printable(f"\nYour program on {texts[0]}\n"
                            f"{try_program(given.decode(errors='replace'), texts, executor)}"))

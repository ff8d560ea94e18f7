"""
What an answer is worth whatever its form: the last value or program in the text, judged as any other answer is. The
difference to the strict score is what the form costs, and most of an early gain is form.
"""
import re

import tasks
from executor import Executor
from tasks import TYPES, Task, TaskType

MOST = 40  # candidates that are read: a response of a thousand blocks means none of them
TAGS = re.compile(r"</?(?:think|answer)>")
BLOCK = re.compile(r"```[ \t]*+(\w*+)[ \t]*+\n(.*?)(?:```|\Z)", re.DOTALL)  # the last one may be cut off


def candidates(type: TaskType, response: str) -> list[str]:
    """Texts that may be meant as the answer, the likeliest first; the first that can be read is taken as meant."""
    behind = response.rpartition("<answer>")[2].partition("</answer>")[0]
    blocks = [text for part in (response, behind) for _, text in BLOCK.findall(part)][::-1]
    if type.reader == "inspect_program":
        start = max(response.rfind("\ndef f("), 0)
        texts = [text for text in blocks if "def f(" in text] + [TAGS.split(response[start:])[0].partition("```")[0]]
    else:
        bare = [behind] if "<answer>" in response and "```" not in behind else []
        line = next((line for line in reversed(TAGS.sub("\n", response).split("\n")) if line.strip("` \t")), "")
        inline = re.findall(r"`([^`\n]+)`", line)[::-1]
        ends = [line.rpartition(mark)[2] for mark in ("==", " is ", ":", "=") if mark in line]
        texts = [text.strip().strip("`").strip() for text in (*bare, *blocks, line, *inline, *ends)]
        texts = [text for whole in texts for text in (whole, whole.rstrip("."), *call_of(whole, type.answer[0]))]
    return [text for text in dict.fromkeys(texts) if text.strip() and len(text) <= tasks.MAX_PROGRAM_CHARS][:MOST]


def call_of(text: str, answer: str) -> list[str]:
    """The part that is asked for of a text like `f(3, 4) == 14`."""
    call, _, value = text.removeprefix("assert ").rpartition("==")
    inside = re.fullmatch(r"\s*f\((.*)\)\s*", call or value, re.DOTALL)
    return [inside[1] if answer == "input" else value] if inside and (call or answer == "input") else []


def verify(answers: list[tuple[Task, str]], executor: Executor) -> list[bool]:
    """Whether the answers are right, whatever their form; in order."""
    types, texts = [TYPES[task.type] for task, _ in answers], []
    choices = [candidates(type, response) for type, (_, response) in zip(types, answers)]
    wanted = [(type.reader, text) for type, some in zip(types, choices) for text in some]
    outcomes = iter(tasks.read(wanted, executor))
    for type, some in zip(types, choices):
        readable = [text for text, outcome in [(text, next(outcomes)) for text in some] if outcome.kind == "ok"
                    and not (type.reader == "inspect_program" and outcome.value["reason"])]
        texts.append(readable[0] if readable else "")
    formed = [(task, f"</think><answer>\n{tasks.fence(type.answer[0], text)}\n</answer>")
              for type, (task, _), text in zip(types, answers, texts)]
    return [verdict.correct for verdict in tasks.verify(formed, executor)]

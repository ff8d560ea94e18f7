"""
What a model is asked, and where its answer lies in what it says: every item becomes a prompt in one of several styles,
and the answer is searched for in the text of the response, which is not parsed here.

Words in quotation marks of other projects are theirs: scores depend on them (sources beside them).

Order of reading: Prompt, what styles share, then functions, contests, values, mathematics, and finding answers.
"""
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import tasks
from benchmarks.items import Item, boxed
from tasks import Style, TaskType


@dataclass(frozen=True)
class Prompt:
    """Raw `text`, or else a chat: `user`, perhaps `system` and before it the `turns` of a worked example, with the
    beginning of the answer (`prefill`). The response ends at the first of `stops`. `continues`: the program begins in
    the prompt. `alone`: all of it as one user's turn, for templates that change earlier ones."""
    text: str = ""
    user: str = ""
    system: str = ""
    turns: tuple[str, ...] = ()
    alone: str = ""
    prefill: str = ""
    stops: tuple[str, ...] = ()
    continues: bool = False


def azr(question: str) -> Prompt:
    return Prompt(text=tasks.base_prompt(question))


def chat(question: str) -> Prompt:
    return Prompt(user=f"{tasks.CHAT_RULE}\n{question}", prefill="<think>")


def in_turns(build: Callable[[Style], str], style: Style) -> Prompt:
    """The chat prompt that `build` makes in a style of training, turn by turn."""
    seen: list[tuple[str, ...]] = []

    def note(*turns: str) -> str:
        seen.append(turns)
        return "\n".join(turns)
    build(replace(style, name="chat", wrap=note))
    *turns, user = seen[-1]
    build(replace(style, name="chat", wrap=lambda *turns: note(*turns) * 0))  # shows nothing, so all goes into one turn
    return Prompt(user=user, turns=tuple(turns), alone=seen[-1][-1], prefill="<think>")


def program_question(task: str) -> str:
    return (f"{task}\nThe answer is the whole program, with the imports it needs, in exactly this form:\n<answer>\n"
            "```python\n...\n```\n</answer>")


def by_style(question: Callable[[Item], str], **others: Callable[[Item], Prompt]) -> dict[str, Callable]:
    """The prompts of a kind: our question after the training preamble and in the chat template, unless said otherwise;
    `boxed` and `qwen` are `chat` where their authors have no prompt."""
    plain = {"azr": lambda item: azr(question(item)), "chat": lambda item: chat(question(item))} | others
    return {"boxed": plain["chat"], "qwen": plain["chat"]} | plain


# ---------------------------------------------------------------------------------------------------------------------
# Functions and contests

# evalplus 0.3.1, provider/utility.py: where raw completions end.
STOPS = ("<|endoftext|>", "<|endofmask|>", "</s>", "\nif __name__", "\ndef main(", "\nprint(")
FUNCTION_STOPS = STOPS + ("\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert ")
DOCSTRING_STOPS = STOPS + ('\n"""', "\nassert")


def function_question(item: Item) -> str:
    return program_question("Complete this Python function.\n" + tasks.fence("python", item.row["prompt"].strip()))


def function_chat(item: Item) -> Prompt:  # evalplus 0.3.1, codegen.py and provider/utility.py
    return Prompt(user="Please provide a self-contained Python script that solves the following problem in a markdown"
                  f" code block:\n```\n{item.row['prompt'].strip()}\n```\n",
                  prefill="Below is a Python script with a self-contained function that solves the problem and passes"
                  " corresponding tests:\n```python\n", stops=(*STOPS, "\n```\n"))


def function_qwen(item: Item) -> Prompt:  # QwenLM/Qwen2.5-Coder, qwencoder-eval/instruct/eval_plus
    return Prompt(system="You are an intelligent programming assistant to produce Python algorithmic solutions",
                  user=f"Can you complete the following Python function?\n```python\n{item.row['prompt'].strip()}\n\n"
                  "```\n", prefill="```python\n", stops=(*STOPS, "\n```"))


def function_base(item: Item) -> Prompt:
    prompt, human = item.row["prompt"], item.id.startswith("HumanEval")
    return Prompt(text=prompt if human else prompt.strip() + "\n", continues=True,
                  stops=FUNCTION_STOPS if human else DOCSTRING_STOPS)


def contest_question(item: Item) -> str:
    starter = item.row["starter_code"]
    how = ("Solve it by completing this code:\n" + tasks.fence("python", starter) if starter else
           "The program reads the standard input and prints the answer.")
    return program_question(f"Solve this problem in Python.\n\n{item.row['question_content']}\n\n{how}")


def contest_base(item: Item) -> Prompt:
    return Prompt(text=f"{contest_question(item)}\n\n<answer>\n```python\n", prefill="```python\n", stops=("\n```",))


FUNCTIONS = by_style(function_question, chat=function_chat, qwen=function_qwen, base=function_base)
CONTESTS = by_style(contest_question, base=contest_base)


# ---------------------------------------------------------------------------------------------------------------------
# Values: the questions of CRUXEval and LiveCodeBench execution are those of a task type of ours

def blocks_for(type: TaskType, item: Item) -> list[tuple[str, str]]:
    row = item.row
    if "call" in row:  # LiveCodeBench execution calls a function by its own name
        return [("python", f"{row['code']}\n\ndef f():\n    return {row['call']}"), ("input", "")]
    return [("python", row["code"]), *((name, row[name]) for name in ("input", "output") if name not in type.answer)]


def as_task(type: TaskType, example: bool = False, **others: Callable[[Item], Prompt]) -> dict[str, Callable]:
    """The prompts that training asks a task of this type with; `example`: with its worked example."""
    def azr_prompt(item: Item) -> Prompt:
        return Prompt(text=tasks.build_prompt(Style("r1", example=example), "solve", type, [blocks_for(type, item)]))

    def chat_prompt(item: Item) -> Prompt:
        return in_turns(lambda style: tasks.build_prompt(style, "solve", type, [blocks_for(type, item)]),
                        Style(example=example))
    return {"azr": azr_prompt} | others | dict.fromkeys(("chat", "boxed", "qwen"), chat_prompt)


# Worked examples in CRUXEval's form of tags, for models that only continue text. They and their words are ours, so
# expect other scores than with the official ones. Small models copy the form of what they see, with it the number of
# arguments: where these must be found there are two examples, which count them aloud (440 of the 800 functions have one
# parameter, 296 two).
TAGGED = "[PYTHON]\n{code}\n{given}\n[/PYTHON]\n[THOUGHT]\n"
EXAMPLE = TAGGED + "{thought}\n[/THOUGHT]\n[ANSWER]\n{answer}\n[/ANSWER]\n\n"
WORDS = """def f(text):
    words = text.split('-')
    return {word: len(word) for word in words}"""
APPEND = """def f(items, x):
    items.append(x)
    return items[::-1]"""
OUTPUT_EXAMPLE = "Work out what the call returns, step by step, then give the value as a Python literal.\n\n" + \
    EXAMPLE.format(code=WORDS, given="f('red-blue') == ??", answer="{'red': 3, 'blue': 4}", thought="f is called with"
                   " text = 'red-blue'. Split at '-' it gives the words 'red' and 'blue'. Their lengths are 3 and 4.")
INPUT_EXAMPLE = "Find arguments with which the call returns the value, step by step, then give the call.\n\n" + \
    EXAMPLE.format(code=APPEND, given="f(??) == [7, 2, 5]", answer="f([5, 2], 7)", thought="f takes two arguments,"
                   " items and x. It appends x to items and returns them reversed. The value reversed is [5, 2, 7], so"
                   " items is [5, 2] and x is 7.") + \
    EXAMPLE.format(code=WORDS, given="f(??) == {'red': 3, 'blue': 4}", answer="f('red-blue')", thought="f takes one"
                   " argument, text. It splits text at '-' and returns every word with its length. The words are 'red'"
                   " and 'blue', so text is 'red-blue'.")


def output_base(item: Item) -> Prompt:
    call = item.row.get("call") or f"f({item.row['input']})"
    return Prompt(text=OUTPUT_EXAMPLE + TAGGED.format(code=item.row["code"], given=f"{call} == ??"),
                  stops=("[/ANSWER]",))


def input_base(item: Item) -> Prompt:
    return Prompt(text=INPUT_EXAMPLE + TAGGED.format(code=item.row["code"], given=f"f(??) == {item.row['output']}"),
                  stops=("[/ANSWER]",))


OUTPUTS, INPUTS = as_task(tasks.DEDUCTION, base=output_base), as_task(tasks.ABDUCTION, base=input_base)
OUTPUTS_WITH_EXAMPLE, INPUTS_WITH_EXAMPLE = as_task(tasks.DEDUCTION, True), as_task(tasks.ABDUCTION, True)


# ---------------------------------------------------------------------------------------------------------------------
# Mathematics

def math_question(item: Item) -> str:
    return f"{item.row['question']}\n\nThe answer has exactly this form:\n<answer>\n\\boxed{{...}}\n</answer>"


def math_boxed(item: Item) -> Prompt:  # QwenLM/Qwen2.5-Math
    return Prompt(system="Please reason step by step, and put your final answer within \\boxed{}.",
                  user=item.row["question"])


def math_base(item: Item) -> Prompt:
    return Prompt(text=f"Problem: {item.row['question']}\nSolution, with the final answer within \\boxed{{}}:",
                  stops=("\nProblem:",))


MATHEMATICS = by_style(math_question, boxed=math_boxed, qwen=math_boxed, base=math_base)


# ---------------------------------------------------------------------------------------------------------------------
# Finding the answer in a response

OPEN_FENCE = re.compile(r"```[ \t]*+\w*+[ \t]*+\n(.*)", re.DOTALL)


def before_stops(text: str, stops: tuple[str, ...]) -> str:
    return text[:min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def after_thinking(text: str) -> str:
    """What follows the thinking; the last answer part if there is one."""
    text = text[text.rfind("</think>") + len("</think>"):] if "</think>" in text else text
    return text[text.rfind("<answer>") + len("<answer>"):].split("</answer>")[0] if "<answer>" in text else text


FENCE = re.compile(r"^[ \t]*+```[ \t]*+(\w*+)", re.MULTILINE)


def is_whole(response: str, continues: bool) -> bool:
    """Whether a response has its program in a fence of its own, as those of chat APIs, and does not go on with what the
    prompt began: its first fence opens, since it has a language or all of them are paired, and no body of a function
    stands before it."""
    languages = FENCE.findall(response)
    begun = continues and re.search(r"^(?: {4}|\t)", response[:response.find("```")], re.MULTILINE)
    return bool(languages) and not begun and (languages[0] != "" or len(languages) % 2 == 0)


def find_program(item: Item, prompt: Prompt, response: str) -> str | None:
    """The last fenced block that defines what is asked for, else the last one, else a block that was not closed."""
    if is_whole(response, prompt.continues):
        text = response
    elif prompt.continues:
        return prompt.text + before_stops(response, prompt.stops)
    else:  # A prefilled fence is closed by what ends the response: the stops of a chat cut as they do while sampling.
        text = prompt.prefill + before_stops(response, prompt.stops)
        text += "\n```\n" if prompt.prefill.endswith("```python\n") else ""
    text = after_thinking(text)
    blocks = [code for language, code in tasks.FENCED.findall(text) if language.lower() in (*tasks.CODE, "python3")]
    wanted = item.row.get("entry_point")
    named = [code for code in blocks if wanted and re.search(rf"^[ \t]*+def {re.escape(wanted)}\b", code, re.MULTILINE)]
    if blocks:
        return (prompt.text if prompt.continues and not named else "") + (named or blocks)[-1]
    unclosed = OPEN_FENCE.search(text)
    code = unclosed[1] if unclosed else text if wanted and f"def {wanted}" in text else ""
    return code if code.strip() else None


def find_input(item: Item, prompt: Prompt, response: str) -> str | None:
    return find_literal(prompt, response, "input")


def find_output(item: Item, prompt: Prompt, response: str) -> str | None:
    return find_literal(prompt, response, "output")


def find_literal(prompt: Prompt, response: str, language: str) -> str | None:
    text = before_stops(response, prompt.stops)
    if "[ANSWER]" in text and prompt.stops:
        answer = text[text.rfind("[ANSWER]") + len("[ANSWER]"):].strip().removeprefix("assert ")
        answer = answer.split("\nassert ")[0].strip()  # of several the first, as in the official scorer
        return sides(answer)[language == "output"] or None
    blocks = tasks.blocks_of(tasks.answer_blocks(text), language, None) if "<answer>" in text else []
    # The prompts ask for a block; an answer part without any fence counts too, as it does in training.
    return blocks[0] if blocks else None


def sides(answer: str) -> tuple[str, str]:
    """The two sides of `f(...) == ...`; the whole answer for both where it is nothing of the kind."""
    equation = re.fullmatch(r"(\w+\(.*\))[ \t]*==(.*)", answer, re.DOTALL)
    return (equation[1], equation[2].strip()) if equation else (answer, answer)


def find_math(item: Item, prompt: Prompt, response: str) -> str | None:
    text = before_stops(response, prompt.stops)
    answer = after_thinking(text)
    if (inside := boxed(answer)) is not None:
        return inside
    return answer.strip() or None if "<answer>" in text else boxed(text)

"""
A trained policy in the terminal: a message a line, the answer below it.
"""
import sys
from pathlib import Path

import torch

import tasks
from command import Parser, UserError, real, whole
from config import Config
from model import ModelError, Policy, chat_template, decode, encode
from sampler import generate
from sandbox.values import printable
from tools.export import load_run


def question(policy: Policy, config: Config, text: str) -> str:
    """The prompt, in the form that the run was trained with."""
    if config.prompt == "chat":
        return tasks.chat_prompt(chat_template(policy), text)
    return f"{text}\n<think>" if config.prompt == "compact" else tasks.base_prompt(text)


def reply(policy: Policy, config: Config, text: str, most: int, temperature: float, seed: int) -> str:
    """The response to one message. ModelError where message and response do not fit into the model's positions."""
    ids = encode(policy, question(policy, config, text), config.prompt == "chat")
    if len(ids) >= policy.max_length:
        raise ModelError(f"the message has {len(ids)} tokens, the model {policy.max_length} positions")
    ((sample,),) = generate(policy, [ids], 1, min(most, policy.max_length - len(ids)), temperature, seed,
                           stops=("</answer>",) if config.stop_at_answer else ())
    return decode(policy, sample.ids)


def chat(folder: Path, most: int | None, temperature: float, device: str, model: str | None = None,
         probed: bool = True) -> None:
    """Until the end of input. Every message is answered alone: training knew no conversations."""
    policy, config = load_run(folder, device, model=model, probed=probed)
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")  # what is piped in may be no UTF-8
    if sys.stdin.isatty():
        print("A message a line (\\n in it starts a new one), each answered by itself; Ctrl-D ends.")
    for number, line in enumerate(iter(read_message, None)):
        if line.strip():
            try:
                print(printable(reply(policy, config, line.replace("\\n", "\n"), most or config.max_new_tokens,
                                      temperature, number)), flush=True)
            except ModelError as error:
                print(f"({error})")


def read_message() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m tools chat", description="Asks the trained model: a message a line, each answered"
                    " by itself; from a file with < FILE.\nnano knows no English: it takes what samples.jsonl has as"
                    " prompts, without <think> and with \\n for a new line.")
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--max_new_tokens", type=whole(1, 2**20), help="longest answer; the run's if not given")
    parser.add_argument("--temperature", type=real(0, 100), default=0.0, help="0: greedy")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu",
                        choices=("cpu", "cuda"), help="cuda where there is one if not given")
    parser.add_argument("--model", help="the model that the run was trained from, if it is elsewhere by now")
    parser.add_argument("--no_probe", action="store_true", help="do not compare logits with transformers' first")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no CUDA device here")
    try:
        chat(args.run, args.max_new_tokens, args.temperature, args.device, args.model, not args.no_probe)
    except ModelError as error:
        raise UserError(str(error)) from error

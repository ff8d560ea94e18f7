"""
A trained policy in the terminal: a message a line, the answer below it.
"""
import sys
from pathlib import Path

import torch

import tasks
from command import Parser, UserError
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
    parser = Parser(prog="python -m tools chat", description="Answer messages in the terminal.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--max_new_tokens", type=int, help="longest answer; the run's if not given")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", help="the model that the run was trained from, if it is elsewhere by now")
    parser.add_argument("--no_probe", action="store_true", help="do not compare logits with transformers' first")
    args = parser.parse_args(argv)
    if not ((args.max_new_tokens is None or args.max_new_tokens > 0) and 0 <= args.temperature < float("inf")):
        parser.error("--max_new_tokens must be at least 1, --temperature 0 or more")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: there is no CUDA device here")
    try:
        chat(args.run, args.max_new_tokens, args.temperature, args.device, args.model, not args.no_probe)
    except ModelError as error:
        raise UserError(str(error)) from error

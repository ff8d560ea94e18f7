"""
What was trained, for other tools and for the terminal. model.py is the door:

    python model.py export runs/NAME OUT            # the adapter, with tokenizer and model card: peft, vLLM, llama.cpp
    python model.py export runs/NAME OUT --merge    # all weights in one folder, for transformers
    python model.py chat runs/NAME                  # a message a line, the answer below it
"""
import argparse
import json
import re
import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import tasks
import train
from model import ModelError, Policy, chat_template, decode, encode, load_policy
from sampler import generate

BASE = "base_model_name_or_path"  # peft's field for the model that an adapter belongs to


class InteropError(Exception):
    """What was asked for cannot be done; the text is one line that says why."""


def read_config(folder: Path) -> train.Config:
    try:
        saved = json.loads((folder / "config.json").read_text())
        known = train.Config.__dataclass_fields__
        cfg = train.Config(**{key: value for key, value in saved.items() if key in known})
        Path(cfg.model)  # without one, as in anybody's config.json, it is no run's either
        return cfg
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InteropError(f"{folder}: no readable config.json there, so this is not a run folder") from error


def policy_folder(folder: Path) -> Path:
    """Of the newest whole checkpoint."""
    found = train.find_checkpoint(folder)
    if found is None:
        raise InteropError(f"{folder}: no checkpoint there yet; train at least one step")
    return found / "policy"


def load_run(folder: Path, device: str = "cpu", dtype=None) -> tuple[Policy, train.Config]:
    """The trained policy of a run, as train.py itself would load it."""
    cfg = read_config(folder)
    return load_policy(cfg.model, device, cfg.lora_rank, cfg.lora_alpha, adapter=policy_folder(folder), dtype=dtype,
                       norms=cfg.norm_lr > 0), cfg


# ----------------------------------------------------------------------------------------------------------------
# Export

def export(folder: Path, out: Path, merge: bool = False) -> None:
    """Writes OUT, which must not exist: weights or adapter, tokenizer, README.md. Merged weights have the base's stored
    dtype. Raises InteropError, ModelError or train.UserError; then OUT is not there."""
    cfg, weights = read_config(folder), policy_folder(folder)
    if out.exists():
        raise InteropError(f"{out} exists already; choose another folder, or remove it")
    new = out.with_name(out.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        if cfg.lora_rank == 0 or merge:
            write_merged(cfg, weights, new)
        else:
            shutil.copytree(weights, new, dirs_exist_ok=True)
            path = new / "adapter_config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {BASE: cfg.model}, indent=2) + "\n")
        AutoTokenizer.from_pretrained(cfg.model).save_pretrained(new)
        (new / "README.md").write_text(card(cfg, folder, adapter_only=bool(cfg.lora_rank) and not merge))
        new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_merged(cfg: train.Config, weights: Path, out: Path) -> None:
    stored = getattr(AutoConfig.from_pretrained(cfg.model), "dtype", None) or torch.float32
    if cfg.lora_rank == 0:
        model = AutoModelForCausalLM.from_pretrained(weights, dtype=stored)
    else:
        # In fp32, so that base and LoRA are added before they are rounded.
        policy = load_policy(cfg.model, "cpu", cfg.lora_rank, cfg.lora_alpha, adapter=weights, dtype=torch.float32,
                             norms=cfg.norm_lr > 0)
        model = policy.model.merge_and_unload().to(stored)
    model.save_pretrained(out)


def card(cfg: train.Config, folder: Path, adapter_only: bool) -> str:
    """The model card: how to load and ask it, the run's configuration, its results."""
    head = ["---", f"library_name: {'peft' if adapter_only else 'transformers'}", "pipeline_tag: text-generation"]
    if not Path(cfg.model).exists():
        head.append(f"base_model: {cfg.model}")
    head += ["tags: [absolute-zero, self-play, reinforcement-learning]", "---"]
    base = Path(cfg.model).name if Path(cfg.model).exists() else cfg.model
    loader = "peft.AutoPeftModelForCausalLM" if adapter_only else "transformers.AutoModelForCausalLM"
    load = f"```python\nmodel = {loader}.from_pretrained(FOLDER)  # trained from {base}\n```"
    ask = {"r1": f"Prompts read\n\n```\n{tasks.base_prompt('QUESTION')}\n```",
           "chat": f"Questions go through the chat template, with this before them:\n\n```\n{tasks.CHAT_RULE}```",
           "compact": "Prompts are `solve TYPE`, fenced blocks and `<think>`, a line each (nano knows no English)."}
    results = folder / "heldout.md"
    told = re.sub(r"\S*/", "", results.read_text()) if results.is_file() else \
        "The run has not ended; nothing was measured yet."  # of paths the last part: a card is for others to read
    options = json.dumps({key: value for key, value in vars(cfg).items() if key not in train.RUNNING_FLAGS}, indent=2)
    return "\n\n".join([
        "\n".join(head), f"# {cfg.name}", f"{base}, trained by self-play (Absolute Zero, arXiv 2505.03335): it proposed"
        " Python reasoning tasks to itself and solved them, rewarded by a Python executor.", load, ask[cfg.prompt],
        "Responses read `reasoning</think><answer>...</answer>`. Its reasoning was never trained to be harmless: read"
        " before you rely on it, and run what it writes only in a sandbox.",
        "## Results", told.strip(),
        "## Configuration", f"```json\n{options}\n```"]) + "\n"


# ----------------------------------------------------------------------------------------------------------------
# Chat

def question(policy: Policy, cfg: train.Config, text: str) -> str:
    """The prompt, in the form that the run was trained with."""
    if cfg.prompt == "chat":
        return tasks.chat_prompt(chat_template(policy), text)
    return f"{text}\n<think>" if cfg.prompt == "compact" else tasks.base_prompt(text)


def reply(policy: Policy, cfg: train.Config, text: str, most: int, temperature: float, seed: int) -> str:
    """The response to one message. ModelError where message and response do not fit into the model's positions."""
    ids = encode(policy, question(policy, cfg, text), cfg.prompt == "chat")
    if len(ids) >= policy.max_length:
        raise ModelError(f"the message has {len(ids)} tokens, the model {policy.max_length} positions")
    ((sample,),) = generate(policy, [ids], 1, min(most, policy.max_length - len(ids)), temperature, seed)
    return decode(policy, sample.ids)


def chat(folder: Path, most: int | None, temperature: float, device: str) -> None:
    """Until the end of input. Every message is answered alone: training knew no conversations."""
    policy, cfg = load_run(folder, device)
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")  # what is piped in may be no UTF-8
    if sys.stdin.isatty():
        print("A message a line (\\n in it starts a new one), each answered by itself; Ctrl-D ends.")
    for number, line in enumerate(iter(read_message, None)):
        if line.strip():
            try:
                print(tasks.printable(reply(policy, cfg, line.replace("\\n", "\n"), most or cfg.max_new_tokens,
                                            temperature, number)), flush=True)
            except ModelError as error:
                print(f"({error})")


def read_message() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="model.py", description="What was trained, for other tools and the terminal.")
    commands = parser.add_subparsers(dest="command", required=True)
    exporting = commands.add_parser("export", help="write a folder that transformers, vLLM and llama.cpp can load")
    exporting.add_argument("run", type=Path)
    exporting.add_argument("out", type=Path)
    exporting.add_argument("--merge", action="store_true", help="all weights, not the adapter alone")
    chatting = commands.add_parser("chat", help="answer messages in the terminal")
    chatting.add_argument("run", type=Path)
    chatting.add_argument("--max_new_tokens", type=int, help="longest answer; the run's if not given")
    chatting.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    chatting.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    if args.command == "chat" and not ((args.max_new_tokens is None or args.max_new_tokens > 0)
                                       and 0 <= args.temperature < float("inf")):
        parser.error("--max_new_tokens must be at least 1, --temperature 0 or more")
    if args.command == "chat" and args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: there is no CUDA device here")
    try:
        if args.command == "export":
            export(args.run, args.out, args.merge)
            print(f"{args.out}: {'all weights' if args.merge else 'as trained'}, tokenizer and model card")
        else:
            chat(args.run, args.max_new_tokens, args.temperature, args.device)
    except (InteropError, ModelError, train.UserError) as error:
        print(f"model.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"model.py: {error.strerror or error} ({error.filename or ''})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0

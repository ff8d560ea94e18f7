"""
A run as a folder that other tools load: an adapter for peft, vLLM and llama.cpp, or all weights for transformers, with
tokenizer and model card.
"""
import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import runfolder
import tasks
from command import Parser, UserError
from config import Config, read_config
from model import ModelError, Policy, load_policy

BASE = "base_model_name_or_path"  # peft's field for the model that an adapter belongs to


def policy_folder(folder: Path) -> Path:
    """Of the newest whole checkpoint."""
    checkpoint = runfolder.find_checkpoint(folder)
    if checkpoint is None:
        raise UserError(f"{folder}: no checkpoint there yet; train at least one step")
    return checkpoint / "policy"


def load_run(folder: Path, device: str = "cpu", dtype: torch.dtype | None = None) -> tuple[Policy, Config]:
    """The trained policy of a run, as train.py itself would load it."""
    config = read_config(folder)
    return load_policy(config.model, device, config.lora_rank, config.lora_alpha, adapter=policy_folder(folder),
                       dtype=dtype, norms=config.norm_lr > 0), config


def export(folder: Path, out: Path, merge: bool = False) -> None:
    """Writes OUT, which must not exist: weights or adapter, tokenizer, README.md. Merged weights have the base's stored
    dtype. Raises UserError or ModelError; then OUT is not there."""
    config, weights = read_config(folder), policy_folder(folder)
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder, or remove it")
    new = out.with_name(out.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        if config.lora_rank == 0 or merge:
            write_merged(config, weights, new)
        else:
            shutil.copytree(weights, new, dirs_exist_ok=True)
            path = new / "adapter_config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {BASE: config.model}, indent=2) + "\n")
        AutoTokenizer.from_pretrained(config.model).save_pretrained(new)
        (new / "README.md").write_text(card(config, folder, adapter_only=bool(config.lora_rank) and not merge))
        new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_merged(config: Config, weights: Path, out: Path) -> None:
    stored = getattr(AutoConfig.from_pretrained(config.model), "dtype", None) or torch.float32
    if config.lora_rank == 0:
        model = AutoModelForCausalLM.from_pretrained(weights, dtype=stored)
    else:
        # In fp32, so that base and LoRA are added before they are rounded.
        policy = load_policy(config.model, "cpu", config.lora_rank, config.lora_alpha, adapter=weights,
                             dtype=torch.float32, norms=config.norm_lr > 0)
        model = policy.model.merge_and_unload().to(stored)
    model.save_pretrained(out)


def card(config: Config, folder: Path, adapter_only: bool) -> str:
    """The model card: how to load and ask it, the run's results and what defines it."""
    head = ["---", f"library_name: {'peft' if adapter_only else 'transformers'}", "pipeline_tag: text-generation"]
    if not Path(config.model).exists():
        head.append(f"base_model: {config.model}")
    head += ["tags: [absolute-zero, self-play, reinforcement-learning]", "---"]
    base = Path(config.model).name if Path(config.model).exists() else config.model
    loader = "peft.AutoPeftModelForCausalLM" if adapter_only else "transformers.AutoModelForCausalLM"
    load = f"```python\nmodel = {loader}.from_pretrained(FOLDER)  # trained from {base}\n```"
    ask = {"r1": f"Prompts read\n\n```\n{tasks.base_prompt('QUESTION')}\n```",
           "chat": f"Questions go through the chat template, with this before them:\n\n```\n{tasks.CHAT_RULE}```",
           "compact": "Prompts are `solve TYPE`, fenced blocks and `<think>`, a line each (nano knows no English)."}
    results = folder / "heldout.md"
    told = re.sub(r"\S*/", "", results.read_text()) if results.is_file() else \
        "The run has not ended; nothing was measured yet."  # of paths the last piece: a card is for others to read
    options = {f.name: getattr(config, f.name) for f in fields(Config) if not f.metadata["running"]}
    return "\n\n".join([
        "\n".join(head), f"# {config.name}", f"{base}, trained by self-play (Absolute Zero, arXiv 2505.03335): it"
        " proposed Python reasoning tasks to itself and solved them, rewarded by a Python executor.", load,
        ask[config.prompt],
        "Responses read `reasoning</think><answer>...</answer>`. Its reasoning was never trained to be harmless: read"
        " before you rely on it, and run what it writes only in a sandbox.",
        "## Results", told.strip(),
        "## Configuration", f"```json\n{json.dumps(options, indent=2)}\n```"]) + "\n"


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m tools export",
                    description="Write a folder that transformers, vLLM and llama.cpp can load.")
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--merge", action="store_true", help="all weights, not the adapter alone")
    args = parser.parse_args(argv)
    try:
        export(args.run, args.out, args.merge)
    except ModelError as error:
        raise UserError(str(error)) from error
    print(f"{args.out}: {'all weights' if args.merge else 'as trained'}, tokenizer and model card")

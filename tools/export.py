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

import loading
import runfolder
import tasks
from command import Parser, UserError
from config import Config, read_config
from loading import ModelError
from model import Policy, load_policy

BASE = "base_model_name_or_path"  # peft's field for the model that an adapter belongs to


def policy_folder(folder: Path) -> Path:
    """Of the newest whole checkpoint."""
    checkpoint = runfolder.find_checkpoint(folder)
    if checkpoint is None:
        raise UserError(f"{folder}: no checkpoint there yet; train at least one step")
    return checkpoint / "policy"


def read_run(folder: Path, model: str | None = None) -> Config:
    """A run's configuration; `model` is where its model is by now, if that was moved."""
    config = read_config(folder)
    config.model = model or config.model
    if not model and Path(config.model).is_absolute() and not Path(config.model).is_dir():
        raise UserError(f"{config.model}, the model that {folder} was trained from, is not there; give its folder with"
                        " --model")
    return config


def load_run(folder: Path, device: str = "cpu", dtype: torch.dtype | None = None, model: str | None = None,
             probed: bool = True) -> tuple[Policy, Config]:
    """The trained policy of a run, as train.py itself would load it."""
    config = read_run(folder, model)
    return load_policy(config.model, device, config.lora_rank, config.lora_alpha, config.load_in_4bit,
                       policy_folder(folder), dtype=dtype, norms=config.norm_lr > 0,
                       probed=probed and config.probe), config


def export(folder: Path, out: Path, merge: bool = False, model: str | None = None) -> None:
    """Writes OUT, which must not exist: weights or adapter, tokenizer, README.md. Merged weights have the base's stored
    dtype. Raises UserError or ModelError; then OUT is not there."""
    config, weights = read_run(folder, model), policy_folder(folder)
    base = config.model = loading.find(config.model)
    architecture = loading.read_architecture(base)
    tokenizer = loading.read_tokenizer(base, architecture)
    loading.refuse_other_base(base, loading.digest(base, tokenizer), weights)
    nf4 = config.load_in_4bit or hasattr(architecture, "quantization_config")
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder, or remove it")
    new = out.with_name(out.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        if config.lora_rank == 0 or merge:
            write_merged(config, architecture, weights, new)
        else:
            shutil.copytree(weights, new, dirs_exist_ok=True)
            path = new / "adapter_config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {BASE: config.model}, indent=2) + "\n")
        tokenizer.save_pretrained(new)
        (new / "README.md").write_text(card(config, folder, bool(config.lora_rank) and not merge, nf4))
        new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_merged(config: Config, architecture, weights: Path, out: Path) -> None:
    """All weights; where the frozen ones were in NF4 in training, those that NF4 stands for."""
    stored = getattr(architecture, "dtype", None) or torch.float32
    if config.lora_rank == 0:
        model = loading.read_weights(config.model, architecture, "cpu", torch.float32, False, folder=weights)
    else:
        # In fp32, so that base and LoRA are added before they are rounded.
        base = loading.read_weights(config.model, architecture, "cpu", torch.float32, config.load_in_4bit)
        if getattr(base, "is_quantized", False):
            base = base.dequantize(torch.float32)
        model = loading.add_adapter(base, config.lora_rank, config.lora_alpha, weights, 0).merge_and_unload()
    model.to(stored).save_pretrained(out)


def card(config: Config, folder: Path, adapter_only: bool, nf4: bool) -> str:
    """The model card: how to load and ask it, the run's results and what defines it. `nf4`: its frozen weights were in
    4 bits in training."""
    head = ["---", f"library_name: {'peft' if adapter_only else 'transformers'}", "pipeline_tag: text-generation"]
    if not Path(config.model).exists():
        head.append(f"base_model: {config.model}")
    head += ["tags: [absolute-zero, self-play, reinforcement-learning]", "---"]
    base = Path(config.model).name if Path(config.model).exists() else config.model
    loader = "peft.AutoPeftModelForCausalLM" if adapter_only else "transformers.AutoModelForCausalLM"
    load = f"```python\nmodel = {loader}.from_pretrained(FOLDER)  # trained from {base}\n```"
    if nf4:
        load += "\n\nIn training, and for the results below, the frozen weights were in 4 bits (bitsandbytes' NF4). "
        load += (
            "Add `quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=\"nf4\")` to have the"
            " same; on other weights the adapter may do worse." if adapter_only else
            "This folder holds the values that those stand for, in place of the original ones.")
    ask = {"r1": f"Prompts read\n\n```\n{tasks.base_prompt('QUESTION')}\n```",
           "chat": f"Questions go through the chat template, with this before them:\n\n```\n{tasks.CHAT_RULE}```",
           "compact": "Prompts are `solve TYPE`, fenced blocks and `<think>`, a line each (nano knows no English)."}
    results = folder / "heldout.md"
    told = re.sub(r"\S*/", "", results.read_text()) if results.is_file() else \
        "The run has not ended; nothing was measured yet."  # of paths the last piece: a card is for others to read
    options = {f.name: getattr(config, f.name) for f in fields(Config) if not f.metadata["on_resume"]}
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
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("out", type=Path, help="the folder to write; it must not exist")
    parser.add_argument("--merge", action="store_true", help="all weights, not the adapter alone")
    parser.add_argument("--model", help="the model that the run was trained from, if it is elsewhere by now")
    args = parser.parse_args(argv)
    try:
        export(args.run, args.out, args.merge, args.model)
    except ModelError as error:
        raise UserError(str(error)) from error
    print(f"{args.out}: {'all weights' if args.merge else 'as trained'}, tokenizer and model card")

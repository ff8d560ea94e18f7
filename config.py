"""
Every option of a training run, once: its type, default, help, range, and what may differ between runs, all in its line
of Config. PRESETS are sets of defaults by hardware. `parse` makes a Config of a command line, `read_config` of a run's
config.json.
"""
import argparse
import json
import math
import time
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Literal, Union, get_args, get_origin

import command
from command import HERE, UserError
import torch

from sandbox import host
from tasks import TYPES

MOST = 2.0**62  # of numbers without a bound of their own: fits into what C makes of them


def opt(default, help: str, *, least: float | None = None, above: float | None = None, most: float = MOST,
        scope: str = "experiment", group: str = ""):
    """An option. Numbers are at least `least`, above `above`, at most `most`. `scope` says where it may differ:

        experiment  nowhere: it is what an experiment is about
        run         between runs of one experiment
        start       between the starts of one run, on --resume
        machine     between runs and between starts: how and where they run, and what is written down of them

    `group` is the heading in --help of this option and those after it."""
    told = {"help": help, "least": least, "above": above, "most": most, "group": group,
            "on_resume": scope in ("start", "machine"), "per_run": scope in ("run", "machine")}
    known = {"default_factory": lambda: list(default)} if isinstance(default, list) else {"default": default}
    return field(**known, metadata=told)


@dataclass
class Config:
    preset: str | None = opt(None, "nano, 0.5b, 1.5b, 3b or 7b: a model with sizes; by hardware if not given",
                             group="the run")
    model: str | None = opt(None, "a hub name, or a folder in Hugging Face format", scope="start")
    name: str | None = opt(None, "the run's folder is runs/NAME; preset and time if not given", scope="run")
    resume: str | None = opt(None, "a run folder to go on with; what defines the run cannot change", scope="machine")
    steps: int = opt(500, "training steps (paper: 500)", least=1, most=10**9, scope="start")
    budget_s: float = opt(0.0, "seconds after which the run ends, and is evaluated; 0: none", least=0, scope="machine")
    budget_tokens: int = opt(0, "generated tokens after which the run ends; 0: none", least=0, scope="start")
    seed: int = opt(0, "fixes every random draw", scope="run")
    device: str | None = opt(None, "cuda or cpu; cuda where there is one if not given", scope="machine")

    types: list[str] = opt([name for name in TYPES if TYPES[name].paper], "task types to train", group="the method")
    batch_size: int = opt(64, "B: proposals, and tasks to solve, per type and step (paper: 64)", least=1, most=2**16)
    references_from: Literal["all", "mixed"] = opt(
        "all", "all of the buffer (paper), or what is solved sometimes")
    references: int = opt(6, "K: earlier tasks shown to the proposer (paper: 6; 0 is its ablation)", least=0, most=1000)
    n_probes: int = opt(8, "n: solver samples that measure a task's solve rate (paper: 8)", least=1, most=2**12)
    n_inputs: int = opt(10, "N: inputs of an induction task, half of them hidden (paper: 10)", least=2, most=200)
    seed_factor: int = opt(4, "S: seeding collects B x S tasks per type (paper: 4)", least=1, most=1000)
    seed_tasks: str | None = opt(None, "a task file to start from instead of seeding by the model")
    prompt: Literal["r1", "chat", "compact"] = opt(
        "r1", "r1 for base models, chat for Instruct models, compact for nano")
    example: bool = opt(False, "show a worked example in r1 and chat prompts (paper: no)")
    stop_at_answer: bool = opt(True, "a response ends at </answer> (paper: at the end of text alone)")
    refuse_copies: bool = opt(False, "the gate refuses programs that the proposer was shown (paper: no)")
    train_propose: bool = opt(True, "train on the proposer's responses too (no: the paper's ablation)")
    propose_from: str = opt("policy", "policy (paper), start (the model before training), or a task file")
    control: Literal["none", "shuffled", "random", "form"] = opt(
        "none", "proposers' rewards swapped, a coin judges answers, or the form alone pays")
    solve_tasks: Literal["this", "previous", "probes"] = opt(
        "this", "solved first: this step's (paper), the last's (official); or the probes")
    learnability: Literal["paper", "graded"] = opt(
        "paper", "of solve rate r: 1 - r, but 0 at both ends (paper), or 4 r (1 - r)")
    cut_off_probes: Literal["unsolved", "left_out"] = opt(
        "unsolved", "probes that reach --max_new_tokens: unsolved (paper) or not counted")
    extreme_reward: float = opt(0.0, "proposer, task solved never or always: 0 (paper), -0.5 (official)", most=1e6)
    invalid_reward: float = opt(-1.0, "proposer, a well-formed proposal that fails the gate", most=1e6)
    advantage: Literal["trr++", "reinforce++", "grpo"] | None = opt(
        None, "a baseline per type and role (paper), for all, per probed task (with probes)")
    whitening: Literal["response", "token"] = opt("response", "mean and std over responses (paper), tokens (official)")
    loss_mean: Literal["response", "token", "group"] = opt(
        "response", "over responses (paper), tokens, or those of a type and role (official)")
    solve_weight: float = opt(1.0, "what a solver's row weighs beside a proposer's (paper: 1)", least=0, most=1e6)
    heldout_fraction: float = opt(0.05, "share of programs never trained on nor shown, kept for evaluation", least=0)
    buffer_size: int = opt(16384, "tasks kept per type, the newest (official: the oldest)", least=1, most=10**7)

    temperature: float = opt(1.0, "of proposals, probes and answers (paper: 1)", least=0.01, most=100, group="sampling")
    max_new_tokens: int = opt(8096, "longest response (paper: 8096)", least=2, most=2**20)
    max_prompt_tokens: int = opt(6144, "longest prompt (paper: 6144)", least=1, most=2**20)
    slots: int = opt(128, "responses generated at once", least=1, most=2**16, scope="machine")
    kv_gb: float = opt(0.0, "memory for keys and values; 0: 4 on a CPU, on CUDA half of what is free", least=0,
                       most=1e5, scope="machine")

    lora_rank: int = opt(16, "of the adapters on all linear layers; 0 trains all weights", least=0, most=2**12,
                         group="the update")
    lora_alpha: float = opt(32.0, "LoRA scale is alpha / rank", above=0, most=1e6)
    dtype: Literal["auto", "fp32", "bf16"] = opt("auto", "of frozen weights and activations; auto: bf16 where it pays")
    compile: bool | None = opt(None, "torch.compile for the layers; on with CUDA if not given", scope="machine")
    debug_compile: bool = opt(False, "a compilation after the first step, or too many in it, ends the run",
                              scope="machine")
    merge: bool | None = opt(None, "sample from a copy with LoRA merged; if not given: where it is faster",
                             scope="machine")
    flex: bool = opt(False, "FlexAttention where answers share a prompt in the update, on CUDA", scope="machine")
    probe: bool = opt(True, "at the start, compare a text's logits with transformers'", scope="machine")
    load_in_4bit: bool = opt(False, "keep the frozen weights in NF4 (bitsandbytes)")
    optim: Literal["adamw", "adamw8bit"] = opt("adamw", "adamw8bit needs bitsandbytes")
    lr: float = opt(1e-5, "learning rate (paper: 1e-6 on all weights; LoRA wants ten times that)", above=0, most=1e3)
    norm_lr: float = opt(0.0, "learning rate of the norms' weights beside LoRA; 0: frozen", least=0, most=1e3)
    lr_final: float = opt(1.0, "share of the rates at the last step, on a line (paper: 1)", least=0, most=1e3)
    grad_clip: float = opt(1.0, "largest gradient norm (paper's code: 1)", above=0)
    epochs: int = opt(1, "passes over a step's responses (paper's code: 1)", least=1, most=1000)
    minibatches: int = opt(1, "optimizer updates per pass (paper's code: 1)", least=1, most=2**20)
    clip_low: float = opt(0.2, "PPO clip below 1", above=0)
    clip_high: float = opt(0.2, "PPO clip above 1", above=0, most=1e6)
    kl_coef: float = opt(0.0, "weight of KL(policy || starting model) in the loss", least=0, most=1e6)
    entropy_coef: float = opt(0.0, "weight of the entropy bonus", least=0, most=1e6)
    micro_tokens: int = opt(16384, "padded tokens per forward-backward pass; 0: as free memory allows", least=0,
                            scope="machine")
    checkpoint_layers: bool | None = opt(None, "recompute layers in the backward pass; if not given: by free memory",
                                         scope="machine")

    workers: int = opt(host.cores(), "executor processes", least=1, most=1024, scope="machine", group="the executor")
    cpu_seconds: float = opt(1.0, "CPU time of one run of a program; a task's runs have four times that", above=0,
                             most=math.inf)
    memory_mb: int = opt(512, "memory of one run of a program", least=64, most=2**20)
    require: Literal["kernel", "partial", "weak"] = opt(
        "kernel", "the least sandbox; below kernel programs reach more than their result", scope="machine")

    heldout_tasks: str | None = opt(None, "a task file to evaluate on, beside the run's own held-out tasks",
                                    scope="start", group="evaluation, logs, checkpoints")
    eval_every: int = opt(0, "steps between held-out evaluations; 0: only at the end", least=0, scope="machine")
    curve_limit: int = opt(0, "held-out tasks in them, of all types and depths; 0: as at the end", least=0,
                           scope="machine")
    zero_token: bool = opt(False, "at the end, also the untrained model made to think, and with its form forgiven",
                           scope="machine")
    eval_samples: int = opt(0, "answers at --temperature in them, beside the greedy one", least=0, most=2**12,
                            scope="machine")
    eval_tasks: list[str] = opt([], "benchmarks of eval.py to score in them too, greedily", scope="machine")
    eval_data: str | None = opt(None, "the folder with their files, as eval.py's --data", scope="machine")
    eval_limit: int = opt(1200, "held-out tasks used, of the file and of the run's own", least=0, scope="machine")
    keep_samples: int = opt(-1, "responses logged per step, type and kind; -1 is all", least=-1, scope="machine")
    save_every: int = opt(1, "steps between checkpoints", least=1, scope="machine")
    report_every: int = opt(0, "steps between reports; 0: only at the end", least=0, scope="machine")
    tensorboard: bool = opt(False, "mirror metrics.jsonl for TensorBoard, in the run's folder", scope="machine")
    wandb: bool = opt(False, "mirror metrics.jsonl to Weights & Biases", scope="machine")


# Small Instruct models do not know the form: they are shown it, and what is well-formed is worth something from the
# first step (README, departures from the paper).
SMALL = dict(prompt="chat", example=True, refuse_copies=True, invalid_reward=-0.5, solve_tasks="probes", n_inputs=6,
             max_prompt_tokens=2048, max_new_tokens=512, batch_size=16, seed_factor=2, lr=5e-5)
PRESETS = {
    "nano": dict(model=str(HERE / "nano"), prompt="compact", batch_size=32, references=2, n_inputs=6, seed_factor=2,
                 solve_tasks="probes", solve_weight=0.5, max_new_tokens=192, max_prompt_tokens=512, slots=256,
                 steps=60, lr=2e-3, norm_lr=8e-3, lr_final=0.1, micro_tokens=2048, cpu_seconds=0.5, eval_every=10,
                 curve_limit=294, eval_limit=2520, zero_token=True,
                 heldout_tasks=str(HERE / "nano" / "heldout.jsonl")),
    "0.5b": SMALL | dict(model="Qwen/Qwen2.5-Coder-0.5B-Instruct", references=2, slots=256),
    "1.5b": SMALL | dict(model="Qwen/Qwen2.5-Coder-1.5B-Instruct", references=3, slots=256, max_new_tokens=768,
                         max_prompt_tokens=3072),
    "3b": dict(model="Qwen/Qwen2.5-Coder-3B", max_new_tokens=4096),
    "7b": dict(model="Qwen/Qwen2.5-Coder-7B", max_new_tokens=4096),
}
# What a preset takes on a CPU: with B 4, three types and 160 tokens a step of 0.5b took three minutes on two cores, and
# no induction proposal was valid. Passes of 16,384 tokens took more than 23 GB, and are no faster there.
ON_CPU = {"0.5b": dict(types=["deduction", "abduction"], batch_size=3, references=1, max_new_tokens=128, slots=64,
                       micro_tokens=2048, lr=1e-4, steps=60)}


# ----------------------------------------------------------------------------------------------------------------
# The command line

class Parser(command.Parser):
    def error(self, message: str):
        raise UserError(f"{self.told(message)}; {self.prog} --help lists all options")


def build_parser(defaults: dict) -> Parser:
    """An option --NAME for every field of Config, and --no_NAME for a yes or no. What is not given is left out of the
    result; --help shows `defaults` in the place of Config's."""
    parser = Parser(prog="python train.py", usage="python train.py [--OPTION VALUE ...]", add_help=False,
                    description="Defaults are in brackets, a preset's with --preset NAME --help. Yes or"
                    " no: --NAME or --no_NAME.")
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    group = parser
    for f in fields(Config):
        group = parser.add_argument_group(f.metadata["group"]) if f.metadata["group"] else group
        kind = kind_of(f)
        choices = get_args(kind)
        default = defaults.get(f.name, f.default_factory() if f.default is MISSING else f.default)
        shown = f" [{' '.join(default) if isinstance(default, list) else default}]" if default not in (None, []) else ""
        shown = shown.replace(f"{HERE}/", "").replace("True", "yes").replace("False", "no")
        extra = {"nargs": "+"} if get_origin(f.type) is list else {"nargs": "?", "const": True} if kind is bool else {}
        group.add_argument(f"--{f.name}", choices=choices or None, default=argparse.SUPPRESS,
                           type=str if choices else yes_or_no if kind is bool else kind,
                           metavar="|".join(choices) or {bool: "yes|no", int: "N", float: "X", str: "TEXT"}[kind],
                           help=(f.metadata["help"] + shown).replace("%", "%%"), **extra)
        if kind is bool:
            group.add_argument(f"--no_{f.name}", dest=f.name, action="store_const", const=False,
                               default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def kind_of(f) -> type:
    """T of a field of type T, T | None or list[T]."""
    return f.type if get_origin(f.type) is Literal else (get_args(f.type) or [f.type])[0]


def yes_or_no(text: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither yes nor no")
    return words[text.lower()]


def parse(argv: list[str]) -> tuple[Config, str]:
    """The configuration and the first line to print. Options win over the resumed run's configuration or the preset."""
    argv = [underscored(word) if word.startswith("--") else word for word in argv]
    given = vars(build_parser({}).parse_known_args([word for word in argv if word not in ("-h", "--help")])[0])
    if (resumed := given.get("resume")) == "":
        raise UserError("--resume: give a run folder")
    if resumed:
        defaults, line = vars(read_config(Path(resumed))), f"resuming {resumed}"
    else:
        preset, line = pick_preset(given)
        device = given.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
        defaults = PRESETS[preset] | (ON_CPU.get(preset, {}) if device == "cpu" else {})
        defaults |= {"preset": preset, "device": device}
    given = vars(build_parser(defaults).parse_args(argv))
    if fixed := [f.name for f in fields(Config) if resumed and f.name in given and not f.metadata["on_resume"]]:
        raise UserError(f"--{fixed[0]} cannot change on --resume, it would be another run; drop it or start a new run")
    cfg = Config(**defaults | given)
    for name in ("model", "seed_tasks", "heldout_tasks", "propose_from", "eval_data"):  # to be resumed from anywhere
        if (path := getattr(cfg, name)) and not names_no_file(name, path) and Path(path).expanduser().exists():
            setattr(cfg, name, str(Path(path).expanduser().resolve()))
    cfg.name = cfg.name or f"{cfg.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    check(cfg)
    return cfg, line


def names_no_file(option: str, value: str) -> bool:
    """Whether the value is a word of the option's own, or a hub name beside a file of that name."""
    return option == "propose_from" and value in ("policy", "start") or option == "model" and not \
        Path(value).expanduser().is_dir()


def underscored(word: str) -> str:
    """--batch-size is --batch_size."""
    name, equals, value = word[2:].partition("=")
    return "--" + name.replace("-", "_") + equals + value


def pick_preset(given: dict) -> tuple[str, str]:
    """The preset, and a line that says why this one and how to have another."""
    if preset := given.get("preset"):
        if preset not in PRESETS:
            raise UserError(f"--preset {preset}: no such preset; choose from {', '.join(PRESETS)}")
        return preset, f"preset {preset}, as asked"
    if not torch.cuda.is_available() or given.get("device") == "cpu":
        preset, other = ("0.5b", "nano") if given.get("model") else ("nano", "0.5b")
        return preset, (f"preset {preset} (no CUDA device in use); for the other choice:"
                        f" python train.py --preset {other}")
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    preset, other = ("3b", "1.5b") if memory >= 20 else ("1.5b", "nano")
    return preset, (f"preset {preset} ({memory:.0f} GB of CUDA memory); for another choice:"
                    f" python train.py --preset {other}")


GONE = {"stream", "weight_decay", "replay", "share_forms"}  # options of earlier versions, which mean nothing now


def read_config(folder: Path, file: str = "config.json") -> Config:
    """A run's configuration, or its preset's with "preset.json"; UserError where the folder is no run's."""
    try:
        saved = json.loads((folder / file).read_bytes())
        saved = {name: value for name, value in saved.items() if name not in GONE}
        if not isinstance(saved.get("model"), str):  # other programs write files of this name
            raise ValueError("no run's")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder} is not a run folder: there is no readable {file} in it") from error
    if saved.pop("reuse_probes", False):
        saved["solve_tasks"] = "probes"
    saved.setdefault("stop_at_answer", False)
    kinds = {f.name: f.type for f in fields(Config)}
    if unknown := sorted(set(saved) - set(kinds)):
        raise UserError(f"{folder}: its {file} has {', '.join(map(ascii, unknown))}, which this version does not know")
    if wrong := [name for name, value in saved.items() if not is_of(value, kinds[name])]:
        raise UserError(f"{folder}: its {file} has a {wrong[0]} that no run has: {ascii(saved[wrong[0]])[:60]}")
    return Config(**saved)


def is_of(value, kind) -> bool:
    """Whether a value of JSON is of the type of an option, as its line of Config declares it."""
    if get_origin(kind) in (Union, UnionType):
        return any(is_of(value, one) for one in get_args(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(is_of(item, *get_args(kind)) for item in value)
    return type(value) in ((int, float) if kind is float else (kind,))


def proposer_learns(cfg: Config) -> bool:
    return cfg.train_propose and cfg.propose_from == "policy"


def check(cfg: Config) -> None:
    """Values and combinations that cannot work, each with what to do."""
    for f in fields(cfg):
        value, least, above, most = (getattr(cfg, f.name), *(f.metadata[key] for key in ("least", "above", "most")))
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{f.name} {value}: must be a finite number")
        if least is not None and value < least or above is not None and value <= above:
            wanted = f"above {above}" if least is None else f"at least {least}" if least else "0 or more"
            raise UserError(f"--{f.name} {value}: must be {wanted}")
        if isinstance(value, (int, float)) and abs(value) > most:
            raise UserError(f"--{f.name} {str(value)[:20]}: must be at most {most:.6g}")
    wrong = [name for name in cfg.types if name not in TYPES]
    rules = [
        (not wrong and cfg.types, f"--types {' '.join(wrong)}: choose one or more of {' '.join(TYPES)}"),
        (len(set(cfg.types)) == len(cfg.types), "--types: each type once"),
        (cfg.n_inputs % 2 == 0, f"--n_inputs {cfg.n_inputs}: must be even, half are hidden"),
        (cfg.cpu_seconds <= 3600, f"--cpu_seconds {cfg.cpu_seconds}: an hour at most"),
        (cfg.heldout_fraction < 1, f"--heldout_fraction {cfg.heldout_fraction}: must be in [0, 1)"),
        (cfg.model, "--model: give a hub name or a folder"),
        (cfg.eval_every or not cfg.eval_tasks, "--eval_tasks is scored every --eval_every steps; give that too"),
        (cfg.clip_low <= 1, f"--clip_low {cfg.clip_low}: must be in (0, 1]"),
        (not cfg.flex or cfg.device == "cuda", "--flex: its backward pass needs CUDA; drop it"),
        (cfg.lora_rank or not cfg.kl_coef,
         "--kl_coef needs the starting model, which --lora_rank 0 overwrites; use LoRA"),
        (cfg.lora_rank or not cfg.load_in_4bit,
         "--load_in_4bit freezes the weights, --lora_rank 0 trains them; drop one"),
        (cfg.advantage != "grpo" or cfg.solve_tasks == "probes",
         "--advantage grpo compares a task's probes with each other; add --solve_tasks probes"),
        (cfg.solve_tasks != "probes" or cfg.n_probes > 1, "--solve_tasks probes compares probes: --n_probes 2 or more"),
        (cfg.control != "shuffled" or proposer_learns(cfg),
         "--control shuffled changes what proposers learn, and here they learn nothing; drop one"),
        (cfg.device in ("cpu", "cuda"), f"--device {cfg.device}: choose cpu or cuda"),
        (cfg.device == "cpu" or torch.cuda.is_available(), "--device cuda: there is no CUDA device here"),
        (Path(cfg.name).name == cfg.name != "..", f"--name {cfg.name}: a plain name, the folder is runs/NAME"),
        (cfg.resume or not cfg.eval_data or Path(cfg.eval_data).is_dir(),
         f"--eval_data {cfg.eval_data}: no such folder"),
    ]
    for holds, message in rules:
        if not holds:
            raise UserError(message)
    for name in ("seed_tasks", "heldout_tasks", "propose_from") if not cfg.resume else ():  # later, if needed at all
        path = getattr(cfg, name)
        if path is not None and not names_no_file(name, path) and not Path(path).is_file():
            raise UserError(f"--{name} {path}: no such file")

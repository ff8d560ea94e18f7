"""
What a run notes beside its numbers: the commit it ran at, the machine, and mirrors of metrics.jsonl in other tools.
"""
import os
import platform
import re
import secrets
import subprocess
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent


def commit() -> str:
    """Of this code, and whether files differ from it; unknown without git or outside a repository."""
    def git(*words) -> str:
        return subprocess.run(["git", "-C", HERE, *words], capture_output=True, text=True).stdout.strip()
    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!results")
        return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")
    except OSError:  # a machine without git can train
        return "unknown"


def machine(device: str) -> dict:
    """What config.json does not say of where a run ran."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        cpu = names[0] if names else cpu
    return {"commit": commit(), "cpu": cpu, "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if device == "cuda" else None, "python": platform.python_version(),
            "torch": torch.__version__}


def mirrors(cfg, folder: Path, step: int, say) -> list:
    """Functions that take a step's metrics, for --tensorboard and --wandb. metrics.jsonl is the source: a mirror that
    fails, when it starts (no package, no login) or later, costs a line, not the run."""
    found = []
    for flag, start in (("tensorboard", start_tensorboard), ("wandb", start_wandb)):
        if getattr(cfg, flag):
            try:
                found.append(careful(flag, start(cfg, folder, step), say))
            except ImportError:
                say(f"note: --{flag} has no effect, the package is not there: pip install {flag}")
            except Exception as error:
                say(f"note: --{flag} has no effect ({first_line(error)})")
    return found


def careful(flag: str, log, say):
    working = True

    def mirror(metrics: dict) -> None:
        nonlocal working
        try:
            if working:
                log(scalars(metrics), metrics["step"])
        except Exception as error:
            working = False
            say(f"note: --{flag} stopped ({first_line(error)}); metrics.jsonl goes on")
    return mirror


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]


def start_tensorboard(cfg, folder: Path, step: int):
    from torch.utils.tensorboard import SummaryWriter
    board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def log(values: dict, step: int) -> None:
        for key, value in values.items():
            board.add_scalar(key, value, step)
        board.flush()
    return log


def start_wandb(cfg, folder: Path, step: int):
    import wandb
    # Not the name: a later run that has it again would be taken for this one, and its first steps dropped.
    path = folder / "wandb.id"
    if not path.exists():
        path.write_text(secrets.token_hex(6))
    wandb.init(project="azr", name=cfg.name, id=path.read_text(), dir=str(folder), config=vars(cfg), resume="allow")
    return lambda values, step: wandb.log(values, step=step)


def scalars(metrics: dict) -> dict:
    """The numbers of a step, one level of nesting flattened; lists are left to metrics.jsonl."""
    flat = {}
    for key, value in metrics.items():
        inner = {f"{key}/{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        flat |= {k: v for k, v in inner.items() if isinstance(v, (int, float))}
    return flat

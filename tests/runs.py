"""Shared by the tests of train.py: a tiny configuration, and `python train.py` as a user would start it."""
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from config import Config, parse

ROOT = Path(__file__).resolve().parent.parent
FEW = str(ROOT / "tests" / "few.jsonl")  # four tasks a type of nano's held-out file, whose 6,300 take seconds to read
TINY = ["--preset", "nano", "--device", "cpu", "--batch_size", "3", "--n_probes", "3", "--seed_factor", "1",
        "--max_new_tokens", "100", "--workers", "1", "--eval_limit", "6", "--solve_tasks", "this",
        "--heldout_tasks", FEW]


def run_train(folder: Path, *flags: str, limit_bytes: int | None = None, **options) -> subprocess.CompletedProcess:
    """`python train.py` in `folder`, offline and on one thread, as a user would start it."""
    def limit():
        if limit_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, str(ROOT / "train.py"), *flags], cwd=folder, env=env, text=True,
                          capture_output=True, timeout=300, preexec_fn=limit, **options)


def config(**changes) -> Config:
    return replace(parse(TINY)[0], **changes)

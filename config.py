"""Stands in for the configuration's own file until that is merged."""
from dataclasses import fields
from types import MappingProxyType

from train import PRESETS, Config, UserError, parse  # noqa: F401

OWN = {"name", "seed", "resume", "workers", "require", "slots", "kv_gb", "micro_tokens", "eval_every",
       "eval_tasks", "eval_data", "eval_limit", "eval_samples", "keep_samples", "save_every", "report_every",
       "tensorboard", "wandb", "device", "checkpoint_layers", "compile"}
for f in fields(Config):
    f.metadata = MappingProxyType(dict(f.metadata) | {"own": f.name in OWN})

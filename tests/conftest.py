"""Shared by all tests: the repository's modules on the path, slow tests on request, and tiny random models."""
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests never ask a hub
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes share the cores
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
LONGEST = ("train", "eval", "step", "commands", "rollout", "sandbox", "report")  # two thirds of the time


def pytest_configure(config):
    """A card is hidden from all tests, which are of the CPU, but where -m asks for those that need one."""
    if config.option.markexpr != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items):
    """The longest files first: begun last, one would keep a process busy alone (a minute of six)."""
    place = {f"test_{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(scope="session")
def executor():
    from executor import Executor
    with Executor(workers=1, cpu_seconds=1.0, require="weak") as running:
        yield running


@pytest.fixture(scope="session")
def tokenizer():
    from nano import make
    return make.make_tokenizer()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, tokenizer):
    """tiny(family, **changes) -> a folder with a random checkpoint of that family and nano's tokenizer."""
    import torch
    from transformers import (AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config)

    def build(family: str = "qwen2", **changes) -> str:
        sizes = dict(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, intermediate_size=48, max_position_embeddings=512, bos_token_id=None,
                     eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=True)
        config = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}[family](**(sizes | changes))
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():  # spread out, so that distributions are far from uniform
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)
    return build

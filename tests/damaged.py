"""
Damaged models and adapters, made from whole ones: what users' folders have been found to hold.

    python tests/damaged.py MODEL OUT     # a folder for each in OUT, from any small checkpoint of one file
"""
import json
import shutil
import sys
from pathlib import Path

import peft
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

WEIGHTS, LAYER = "model.safetensors", "model.layers.1.mlp.up_proj.weight"


def edit(file: str, **changes):
    """A damage to a file of JSON; None removes a key."""
    def damage(folder: Path) -> None:
        path = folder / file
        held = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in held.items() if value is not None}))
    return damage


def weights(change, file: str = WEIGHTS):
    """A damage to the weights: `change` edits the dictionary of tensors."""
    def damage(folder: Path) -> None:
        held = load_file(folder / file)
        change(held)
        save_file({key: tensor.contiguous() for key, tensor in held.items()}, folder / file, {"format": "pt"})
    return damage


def contents(file: str, text: str | int):
    """A damage to a file: other contents, or its first bytes alone."""
    def damage(folder: Path) -> None:
        path = folder / file
        path.write_bytes(path.read_bytes()[:text] if isinstance(text, int) else text.encode())
    return damage


def without(*files: str):
    return lambda folder: [(folder / file).unlink(missing_ok=True) for file in files]


def rename(held: dict) -> None:
    for key in [*held]:
        held["_orig_mod." + key] = held.pop(key)


def put(key: str, value: float | torch.Tensor):
    def change(held: dict) -> None:
        if isinstance(value, float):
            held[key][0, 0] = value
        else:
            held[key] = value
    return change


def lost_shard(folder: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / WEIGHTS).unlink(missing_ok=True)
    next(folder.glob("model-00002-of-*")).unlink()


def only(file: str):
    """An empty folder, or one that holds nothing but a file."""
    def damage(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        if file:
            (folder / file).write_bytes(b"GGUF")
    return damage


def tokens(**changes):
    """A damage to tokenizer.json, read as it is."""
    def damage(folder: Path) -> None:
        edit("tokenizer.json", **changes)(folder)
        edit("tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")(folder)
        edit("config.json", model_type="llama")(folder)  # Qwen2's class would make its own of it
    return damage


def other_tokenization(folder: Path) -> None:
    """Of a class of transformers' that has its own idea of what is split."""
    edit("tokenizer.json", pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                                          "use_regex": False})(folder)
    edit("tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")(folder)


def fewer_rows(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(model.config.vocab_size - 8)
    model.save_pretrained(folder)


def stored_in(method: str, **more):
    return edit("config.json", quantization_config={"quant_method": method, **more})


NANO = Path(__file__).resolve().parent.parent / "nano"
VOCABULARY = json.loads((NANO / "config.json").read_text())["vocab_size"]  # of the models that are damaged
ENDS = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}},
                                                 {"SpecialToken": {"id": "<eos>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<eos>": {"id": "<eos>", "ids": [0], "tokens": ["<eos>"]}}}

# name: (damage, a word or more of the line that names it)
MODELS = {
    "names of torch.compile": (weights(rename), "torch.compile"),
    "a weight is missing": (weights(lambda held: held.pop(LAYER)), f"missing {LAYER}"),
    "a weight too many": (weights(put("model.layers.7.mlp.up_proj.weight", torch.ones(2, 2))),
                          "unknown model.layers.7.mlp.up_proj.weight"),
    "a head for classes": (weights(put("score.weight", torch.ones(2, 32))), "unknown score.weight"),
    "a weight of another shape": (weights(put(LAYER, torch.ones(48, 31))), rf"{LAYER}, \[48, 31\], not \[48, 32\]"),
    "another vocab_size": (edit("config.json", vocab_size=200),
                           rf"embed_tokens.weight, \[{VOCABULARY}, 32\], not \[200, 32\]"),
    "more layers promised": (edit("config.json", num_hidden_layers=3, layer_types=None), "missing model.layers.2"),
    "fewer layers promised": (edit("config.json", num_hidden_layers=1, layer_types=None), "unknown model.layers.1"),
    "a head promised": (edit("config.json", tie_word_embeddings=False), "missing lm_head.weight"),
    "weights not a number": (weights(put(LAYER, float("nan"))), f"{LAYER} holds values that are not finite"),
    "weights infinite": (weights(put(LAYER, float("inf"))), f"{LAYER} holds values that are not finite"),
    "weights cut off": (contents(WEIGHTS, 2000), "cannot be loaded"),
    "a pointer in the place of weights": (contents(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"),
                                          "cannot be loaded"),
    "no weights": (without(WEIGHTS), "cannot be loaded"),
    "a shard is missing": (lost_shard, "model-00002-of-"),
    "an empty folder": (only(""), "is empty"),
    "GGUF alone": (only("model.gguf"), "llama.cpp"),
    "configuration no JSON": (contents("config.json", "{"), "cannot be loaded"),
    "another family": (edit("config.json", model_type="gpt2"), "its type is 'gpt2'; supported"),
    "a family that nobody knows": (edit("config.json", model_type="qwen9"), "its type is 'qwen9'; supported"),
    "gptq": (stored_in("gptq", bits=4), "quantised by gptq"),
    "awq": (stored_in("awq", bits=4), "quantised by awq"),
    "mxfp4": (stored_in("mxfp4"), "quantised by mxfp4"),
    "fp8": (stored_in("fp8"), "quantised by fp8"),
    "8 bits": (stored_in("bitsandbytes", load_in_8bit=True), "quantised by bitsandbytes in 8 bits"),
    "end of text out of range": (edit("config.json", eos_token_id=[0, 154]), "eos_token_id 154"),
    "padding out of range": (edit("config.json", pad_token_id=900), "pad_token_id 900"),
    "end of text a common token": (edit("generation_config.json", eos_token_id=[0, 58]), "end-of-text token 58"),
    "end of text nobody's": (edit("generation_config.json", eos_token_id=500), "end-of-text token 500"),
    "generation_config no JSON": (contents("generation_config.json", "{"), "cannot be loaded"),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), "no tokenizer files"),
    "tokenizer no JSON": (contents("tokenizer.json", "{"), "cannot be loaded"),
    "another pre-tokenizer": (other_tokenization, "other ids than transformers' Qwen2Tokenizer"),
    "a tokenizer of small letters": (tokens(normalizer={"type": "Lowercase"}), "does not give back the text"),
    "a tokenizer that loses spaces": (tokens(decoder=None), "does not give back the text"),
    "a tokenizer that ends texts": (tokens(post_processor=ENDS), "ends every text"),
    "attention in both directions": (edit("config.json", is_causal=False), "our logits differ from transformers'"),
    "more tokens than rows": (fewer_rows, f"ids up to {VOCABULARY - 1}"),
}


def adapter(**changes):
    """How to make an adapter of peft's for a model; its weights are random."""
    def make(model_folder: Path, folder: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(model_folder)
        config = peft.LoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | changes)
        model = peft.get_peft_model(model, config)
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
        model.save_pretrained(folder)
    return make


def other_method(model_folder: Path, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    peft.get_peft_model(model, peft.IA3Config(task_type="CAUSAL_LM")).save_pretrained(folder)


def damaged(damage, **changes):
    def make(model_folder: Path, folder: Path) -> None:
        adapter(**changes)(model_folder, folder)
        damage(folder)
    return make


ADAPTER = "adapter_model.safetensors"
A = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
ADAPTERS = {
    "DoRA": (adapter(use_dora=True), "its use_dora"),
    "biases of LoRA": (adapter(lora_bias=True), "its lora_bias"),
    "LoRA on the embedding": (adapter(target_modules=["embed_tokens", "q_proj"]), "changes model.embed_tokens"),
    "LoRA that changes the base": (adapter(init_lora_weights="pissa"), "its init_lora_weights"),
    "some tokens trained": (adapter(trainable_token_indices=[1, 2]), "its trainable_token_indices"),
    "a whole MLP trained": (adapter(target_modules=["q_proj"], modules_to_save=["mlp"]), "changes model.layers.0.mlp"),
    "layers repeated": (adapter(layer_replication=[[0, 2], [1, 2]]), "its layer_replication"),
    "a part from the future": (damaged(edit("adapter_config.json", use_magic=True)), "its use_magic"),
    "IA3": (other_method, "its type is IA3"),
    "an adapter of another width": (damaged(weights(put(A, torch.ones(4, 64)), ADAPTER)), r"\[4, 64\], not \[4, 32\]"),
    "an adapter without a weight": (damaged(weights(lambda held: held.pop(A), ADAPTER)), f"missing {A}"),
    "an adapter of more layers": (damaged(weights(put(A.replace("1", "5"), torch.ones(4, 32)), ADAPTER)),
                                  "unknown base_model.model.model.layers.5"),
    "an adapter not a number": (damaged(weights(put(A, float("nan")), ADAPTER)), "not finite"),
    "an adapter cut off": (damaged(contents(ADAPTER, 900)), "cannot be loaded"),
    "an adapter without weights": (damaged(without(ADAPTER)), "cannot be loaded"),
    "no adapter": (lambda model_folder, folder: shutil.copytree(model_folder, folder), "no adapter_config.json"),
    "an adapter for other modules": (damaged(edit("adapter_config.json", target_modules=["c_attn"])),
                                     "cannot be loaded"),
    "an adapter of another base": (damaged(contents("base.json", '{"digest": "0123"}')), "not the model that"),
}
# What others train and the forward pass knows.
GOOD_ADAPTERS = {
    "queries and values": dict(target_modules=["q_proj", "v_proj"]),
    "a pattern of names": dict(target_modules=r".*\.(k_proj|down_proj)"),
    "some layers": dict(layers_to_transform=[1], target_modules=["up_proj", "k_proj"]),
    "the head": dict(target_modules=["up_proj", "lm_head"]),
    "another rank": dict(r=7, lora_alpha=3),
    "rsLoRA": dict(use_rslora=True),
    "ranks by module": dict(rank_pattern={"q_proj": 2, "layers.1.mlp.up_proj": 9}, alpha_pattern={"v_proj": 1}),
    "its biases": dict(bias="lora_only"),
    "all biases": dict(bias="all"),
    "dropout": dict(lora_dropout=0.5),
    "norms": dict(modules_to_save=["norm"]),
    "embedding and head": dict(modules_to_save=["embed_tokens", "lm_head"]),
}


def make_all(model_folder: Path, out: Path) -> None:
    for name, (damage, _) in MODELS.items():
        damage(shutil.copytree(model_folder, out / name.replace(" ", "-")))
    for name, (make, _) in ADAPTERS.items():
        make(model_folder, out / name.replace(" ", "-"))


if __name__ == "__main__":
    make_all(Path(sys.argv[1]), Path(sys.argv[2]))

"""
A hub name or a folder as a network, a tokenizer and an adapter that are what was asked for, or one line that says what
is not. transformers gives random values to weights that a checkpoint lacks, peft leaves out what it does not find, and
both go on; here every name, shape, value and id is looked at.

Order of reading: configuration, tokenizer, weights, adapter, the base's digest. model.load_policy calls them, and then
compares the whole with transformers' own forward pass.
"""
import hashlib
import json
import logging
import warnings
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from command import UserError, is_memory  # before torch
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import nn
from transformers import (AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig,
                          PretrainedConfig)
from transformers.utils import logging as transformers_logging

FAMILIES = {"qwen2": "Qwen2/Qwen2.5", "qwen3": "Qwen3", "llama": "Llama 3"}
STATIC_ROPE = {"default", "llama3", "linear", "yarn"}  # inverse frequencies that do not depend on the text's length
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"}  # may have LoRA
COPIED = {"input_layernorm", "post_attention_layernorm", "q_norm", "k_norm", "norm", "embed_tokens", "lm_head"}
# Fields of an adapter's configuration that may have any value; others must have peft's default.
ADAPTER_FIELDS = {"peft_type", "task_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision",
                  "inference_mode", "r", "lora_alpha", "lora_dropout", "bias", "use_rslora", "target_modules",
                  "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern",
                  "alpha_pattern"}
# It ends in nothing that a tokenizer could strip.
TEXT = "def f(x):\n    y = {'k': [x, 1234567 * 20]}  # it's fine , A-b .\n    return str(y)\n\nprint(f(-2.5) != 'é')"
BASE = "base.json"  # beside saved weights: the digest of the model that they were trained from

# The libraries tell of retries, optional kernels and their own deprecations; none of it is the user's to act on, and
# what fails is raised.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
for noisy in ("huggingface_hub", "bitsandbytes"):
    logging.getLogger(noisy).setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
warnings.filterwarnings("ignore", message=".*base_model_name_or_path. was renamed")  # a base that moved


class ModelError(UserError):
    """The model cannot be loaded or used; the text is one line for the user."""


def reason_of(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200].rstrip('.')}"


@contextmanager
def one_line(what: str, advice: str):
    """Whatever is raised inside, as a ModelError: transformers, tokenizers, safetensors and the hub client share no
    base class."""
    try:
        yield
    except ImportError as error:
        raise ModelError(f"a package is missing ({error}); pip install -r requirements.txt") from error
    except Exception as error:
        if isinstance(error, ModelError) or is_memory(error):
            raise
        raise ModelError(f"{what} ({reason_of(error)}); {advice}") from error


# ----------------------------------------------------------------------------------------------------------------
# Configuration

def find(name: str) -> str:
    """The folder that `name` is, or a hub name."""
    local = Path(name).expanduser()
    if local.is_file():
        raise ModelError(f"--model {name}: a file; give the folder that holds it, with config.json and tokenizer files")
    if not local.is_dir():
        if name.startswith(("/", ".", "~")) or name.count("/") != 1:
            raise ModelError(f"--model {name}: no such folder; give a folder with config.json and weights, or a hub"
                             " name like Qwen/Qwen2.5-Coder-3B")
        return name
    if (local / "adapter_config.json").is_file():
        raise ModelError(f"--model {name}: an adapter, not a whole model; give {base_of_adapter(local)} as --model (and"
                         " the adapter to eval.py as --adapter)")
    if (policy := local / "checkpoint" / "policy").is_dir():
        raise ModelError(f"--model {name}: a run's folder, not a model; make one with python -m tools export {name} OUT"
                         f" --merge, or give eval.py --adapter {policy}")
    if not (local / "config.json").is_file():
        held = "is empty" if not any(local.iterdir()) else "holds no config.json"
        gguf = ", and GGUF files are for llama.cpp alone" if [*local.glob("*.gguf")] else ""
        raise ModelError(f"--model {name}: the folder {held}{gguf}; it cannot be loaded without config.json, tokenizer"
                         " files and *.safetensors weights")
    return str(local)


def base_of_adapter(folder: Path) -> str:
    try:
        return json.loads((folder / "adapter_config.json").read_bytes())["base_model_name_or_path"] or "its base"
    except (OSError, ValueError, KeyError, TypeError):
        return "its base"


def loads(name: str):
    """The context in which `name` is loaded."""
    if Path(name).is_dir():
        return one_line(f"--model {name}: cannot be loaded",
                        "the folder needs config.json, tokenizer files and intact *.safetensors weights")
    return one_line(f"--model {name}: the model hub did not give it",
                    "either pass a local folder with --model DIR, or run the built-in tiny model with --preset nano")


def read_architecture(name: str):
    """The model's configuration, of a family that the forward pass knows and with ids that the embedding has."""
    with loads(name):
        saved = PretrainedConfig.get_config_dict(name)[0]
        refuse_unknown(name, saved.get("model_type"), None)
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        refuse_unknown(name, config.model_type, config)
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            held = getattr(config, key, None)
            for id in held if isinstance(held, list) else [] if held is None else [held]:
                if not (0 <= id or key == "pad_token_id") or id >= config.vocab_size:  # old Llamas pad with -1
                    raise ModelError(f"--model {name}: its config.json has {key} {id}, but the model only"
                                     f" {config.vocab_size} embedding rows (vocab_size)")
        return config


def refuse_unknown(name: str, type: str | None, config) -> None:
    rope = getattr(config, "rope_parameters", None) or {}
    odd = None
    if type not in FAMILIES:
        odd = f"its type is {type!r}"
    elif "sliding_attention" in (getattr(config, "layer_types", None) or []):
        odd = "it uses sliding-window attention"
    elif rope.get("rope_type", "default") not in STATIC_ROPE:
        odd = f"its rotary embedding is of type {rope['rope_type']!r}"
    elif getattr(config, "hidden_act", "silu") not in ("silu", "swish"):
        odd = f"its activation is {config.hidden_act!r}"
    if odd:
        raise ModelError(f"--model {name}: not supported, {odd}; supported families: {', '.join(FAMILIES.values())}")


# ----------------------------------------------------------------------------------------------------------------
# Tokenizer

def read_tokenizer(name: str, config):
    """A tokenizer whose ids the model has, that gives back a program's text, and that agrees with tokenizer.json."""
    with loads(name):
        files = "tokenizer.json", "tokenizer.model", "vocab.json"
        if Path(name).is_dir() and not any(Path(name, file).is_file() for file in files):
            raise ModelError(f"--model {name}: no tokenizer files in it (tokenizer.json); copy them from where the"
                             " model comes from")
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        folder = stored(name)
        ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
        whole = TEXT if tokenizer.decode(ids) == TEXT else TEXT.replace("é", "e")  # a toy may know ASCII alone
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        if tokenizer.decode(ids) != whole:
            raise ModelError(f"--model {name}: its tokenizer does not give back the text of a program ({whole[:9]!r}..."
                             f" becomes {tokenizer.decode(ids)[:20]!r}...); its files do not fit together")
        if folder and (folder / "tokenizer.json").is_file():
            plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
            plain.no_truncation(), plain.no_padding()
            if plain.encode(whole, add_special_tokens=False).ids != ids:
                raise ModelError(f"--model {name}: its tokenizer.json gives other ids than transformers'"
                                 f" {type(tokenizer).__name__}, and the model knows one of them alone; give it the"
                                 " tokenizer files that it was trained with")
        token, largest = max(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
        if largest >= config.vocab_size:
            raise ModelError(f"--model {name}: its tokenizer has ids up to {largest} ({token!r}), but the model only"
                             f" {config.vocab_size} embedding rows; they do not belong together")
        return tokenizer


def stop_ids(name: str, config, tokenizer) -> frozenset[int]:
    """Every id that ends a response: Qwen2.5-Instruct alone has two."""
    named = [config.eos_token_id, tokenizer.eos_token_id]
    with loads(name):
        try:
            named.append(GenerationConfig.from_pretrained(name).eos_token_id)
        except OSError:
            if Path(name, "generation_config.json").is_file():
                raise  # it is optional, but this one cannot be read
    ids = [i for entry in named for i in (entry if isinstance(entry, list) else [entry]) if i is not None]
    if not ids:
        raise ModelError(f"--model {name}: neither its configuration nor its tokenizer names an end-of-text token")
    added = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(id for id, token in added if token.special)}
    for id in ids:
        if id not in special:
            token = tokenizer.convert_ids_to_tokens(id) if 0 <= id < len(tokenizer) else "none of its tokenizer's"
            raise ModelError(f"--model {name}: the end-of-text token {id} of its configuration is no special token"
                             f" ({token!r}); mend eos_token_id in config.json and generation_config.json")
    if set(tokenizer("x")["input_ids"][-1:]) & set(ids):
        raise ModelError(f"--model {name}: its tokenizer ends every text with an end-of-text token, prompts too; set"
                         " \"add_eos_token\": false in tokenizer_config.json, or mend post_processor in tokenizer.json")
    return frozenset(ids)


def stored(name: str) -> Path | None:
    """The folder that holds a model's files, of the hub's cache after they were loaded; None if that has none."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=["config.json"]))
    except Exception:  # checks that read files are left out
        return None


# ----------------------------------------------------------------------------------------------------------------
# Weights

def read_weights(name: str, config, device: str, dtype: torch.dtype, load_in_4bit: bool, trained: bool = False,
                 folder: Path | None = None) -> nn.Module:
    """The network with the weights of `name`, or of `folder` if given, in `dtype`; the linear layers in NF4 if asked
    for or stored so, which cannot be `trained`. Every weight is there, has its shape and is finite."""
    source = str(folder or name)
    with loads(source):
        quantisation = quantised(name, config, dtype, load_in_4bit)
        if trained and hasattr(config, "quantization_config"):
            raise ModelError(f"--model {name}: its weights are in 4 bits, which --lora_rank 0 cannot train; drop it")
        model, told = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=dtype, device_map={"": device}, output_loading_info=True,
            ignore_mismatched_sizes=True, trust_remote_code=False, **quantisation)
        misshapen = {key: f"{list(held)}, not {list(asked)}" for key, held, asked in told["mismatched_keys"]}
        refuse_differences(f"--model {source}: its weights are not those of its config.json", told["missing_keys"],
                           told["unexpected_keys"], misshapen)
        refuse_infinite(f"--model {source}", model)
        for parameter in model.parameters():
            if parameter.is_floating_point():  # of a checkpoint in 4 bits the rest comes as it was stored
                parameter.data = parameter.data.to(dtype)
        return model


def quantised(name: str, config, dtype: torch.dtype, load_in_4bit: bool) -> dict:
    """from_pretrained's options for frozen NF4 weights, and none for others."""
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        stored = stored if isinstance(stored, dict) else stored.to_dict()
        if not stored.get("load_in_4bit"):
            bits = " in 8 bits" if stored.get("load_in_8bit") else ""
            raise ModelError(f"--model {name}: its weights are quantised by {stored.get('quant_method', 'a method')}"
                             f"{bits}, which is not supported; give the model in bf16, with --load_in_4bit to save"
                             " memory, or one stored in bitsandbytes' NF4")
        config.quantization_config = stored | {"bnb_4bit_compute_dtype": str(dtype).removeprefix("torch.")}
    if stored is None and not load_in_4bit:
        return {}
    try:
        import bitsandbytes  # noqa: F401  # not needed, and not there, on every machine
    except ImportError as error:
        raise ModelError("weights in 4 bits need the bitsandbytes package: pip install bitsandbytes") from error
    return {} if stored else {"quantization_config": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)}


def refuse_differences(what: str, missing, extra, misshapen: dict[str, str]) -> None:
    def some(names) -> str:
        names = sorted(names)
        return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    told = [f"{word} {some(names)}" for word, names in (("missing", missing), ("unknown", extra)) if names]
    told += [f"of another shape {key}, {shapes}" for key, shapes in sorted(misshapen.items())[:1]]
    if any("_orig_mod." in key for key in extra):
        told.append("_orig_mod. is left by torch.compile: remove it from the names")
    if told:
        raise ModelError(f"{what}: {'; '.join(told)}")


def refuse_infinite(what: str, model: nn.Module) -> None:
    for key, tensor in model.state_dict(keep_vars=True).items():
        # The sum needs no memory, and only a tensor that is not finite, or nearly so, has a sum that is not.
        suspect = tensor.is_floating_point() and not torch.isfinite(tensor.detach().sum())
        if suspect and not torch.isfinite(tensor).all():
            raise ModelError(f"{what}: {key} holds values that are not finite (nan or inf); the file is damaged, or"
                             " training ran away")


# ----------------------------------------------------------------------------------------------------------------
# Adapter

def add_adapter(model: nn.Module, rank: int, alpha: float, adapter: Path | None, seed: int,
                norms: bool = False) -> nn.Module:
    """LoRA on all linear layers of the blocks (attention-only is worse at any rank; Thinking Machines, LoRA Without
    Regret, 2025), master weights in fp32. With `norms`, copies of the norms' weights too: behind a norm with frozen
    weights and a frozen head, LoRA can hardly make a small model more certain of what it knows. `adapter` is a folder
    in peft's format, whose configuration then counts."""
    import peft
    if adapter:
        config = read_adapter_config(adapter)
    else:
        config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules="all-linear",
                                 task_type="CAUSAL_LM", modules_to_save=["norm"] if norms else None)
    torch.manual_seed(seed)
    with adapter_loads(adapter):
        model = peft.get_peft_model(model, config)
    config = model.peft_config["default"]
    if not isinstance(config.target_modules, str):
        config.target_modules = sorted(config.target_modules)  # a set, whose order would differ from save to save
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if adapter:  # only now: PeftModel.from_pretrained reads the norms into the model's dtype, which may be bf16
        refuse_parts(adapter, model)
        with adapter_loads(adapter):
            held = peft.load_peft_weights(str(adapter), device="cpu")
            with_base = any(".base_layer.weight" in key for key in held)  # peft adds the head that LoRA is on
            asked = peft.get_peft_model_state_dict(model, save_embedding_layers=with_base)
            misshapen = {key: f"{list(held[key].shape)}, not {list(asked[key].shape)}" for key in held.keys() & asked
                         if held[key].shape != asked[key].shape}
            refuse_differences(f"the adapter {adapter} does not fit the model", asked.keys() - held,
                               held.keys() - asked, misshapen)
            peft.set_peft_model_state_dict(model, held)
            refuse_infinite(f"the adapter {adapter}", model)
    return model


def adapter_loads(adapter: Path | None):
    if adapter is None:
        return one_line("no LoRA adapter fits the model", "it needs plain linear layers of the usual names, or"
                        " --lora_rank 0")
    return one_line(f"the adapter {adapter} cannot be loaded", "it needs intact files of peft's, and the model that it"
                    " was trained on")


def read_adapter_config(adapter: Path):
    """LoRA's configuration, without parts that the forward pass leaves out."""
    import peft
    if not (adapter / "adapter_config.json").is_file():
        inside = next((adapter / part for part in ("policy", "checkpoint/policy") if (adapter / part).is_dir()), None)
        hint = f"; give {inside}" if inside else "; it holds a whole model: give it as --model" if \
            (adapter / "config.json").is_file() else ""
        raise ModelError(f"the adapter {adapter}: no adapter_config.json there{hint}")
    with adapter_loads(adapter):
        saved, plain = json.loads((adapter / "adapter_config.json").read_bytes()), peft.LoraConfig()
        if saved.get("peft_type") != "LORA":
            raise ModelError(f"the adapter {adapter}: its type is {saved.get('peft_type')}; only LoRA is supported")
        odd = [key for key, value in saved.items() if value and key not in ADAPTER_FIELDS
               and value != getattr(plain, key, None)]
        # Others (PiSSA and its kind) change the frozen weights too.
        if saved.get("init_lora_weights") in ("gaussian", "orthogonal", "eva"):
            odd.remove("init_lora_weights")
        if odd:
            raise ModelError(f"the adapter {adapter}: its {odd[0]} ({saved[odd[0]]!r}) is not supported; plain LoRA is,"
                             " with any ranks, rsLoRA, biases and modules_to_save")
        known = {f.name for f in fields(plain)}
        config = peft.LoraConfig(**{key: value for key, value in saved.items() if key in known - {"peft_type"}})
        config.inference_mode, config.init_lora_weights = False, True
        return config


def refuse_parts(adapter: Path, model: nn.Module) -> None:
    """An adapter may change the linear layers of the blocks and the head, and bring its own norms, embedding, head."""
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if isinstance(module, LoraLayer) and last not in LINEAR or \
                isinstance(module, ModulesToSaveWrapper) and last not in COPIED:
            raise ModelError(f"the adapter {adapter}: it changes {name.removeprefix('base_model.model.')}, which is not"
                             f" supported; LoRA may be on {', '.join(sorted(LINEAR))}, modules_to_save be norms,"
                             " embed_tokens and lm_head")


# ----------------------------------------------------------------------------------------------------------------
# The base that weights were trained from

def digest(name: str, tokenizer) -> str | None:
    """Of three rows of every stored weight, in bf16, and of a text's ids: the same for another folder, dtype or
    sharding, another for other weights. None without *.safetensors."""
    folder, rows = stored(name), {}
    for file in weight_files(folder) if folder else ():
        with loads(name), safe_open(file, "pt") as weights:
            for key in weights.keys():
                tensor = weights.get_slice(key)
                shape = tensor.get_shape()
                picked = [tensor[at:at + 1] for at in (0, shape[0] // 2, shape[0] - 1)] if len(shape) > 1 else \
                    [tensor[:]] if shape else []
                flat = torch.cat([row.flatten() for row in picked]) if picked else torch.zeros(0)
                flat = flat.bfloat16() if flat.is_floating_point() else flat
                rows[key] = f"{shape}".encode() + flat.view(torch.uint8).numpy().tobytes()
    if not rows:
        return None
    sha = hashlib.sha256(str(tokenizer(TEXT)["input_ids"]).encode())
    for key in sorted(rows):
        sha.update(key.encode() + rows[key])
    return sha.hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """As transformers chooses them."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_bytes())
        return sorted(folder / file for file in {*index["weight_map"].values()})
    except (OSError, ValueError, KeyError):
        return []


def refuse_other_base(name: str, base: str | None, saved: Path) -> None:
    """Where the weights in `saved` tell which model they were trained from, `name`, of digest `base`, must be that."""
    try:
        wanted = json.loads((saved / BASE).read_bytes())["digest"]
    except (OSError, ValueError, KeyError, TypeError):  # of peft's or of an earlier version
        return
    if base and wanted and base != wanted:
        raise ModelError(f"--model {name}: not the model that {saved} was trained from, its weights or tokenizer differ"
                         f" (digest {base[:12]}, not {wanted[:12]}); give that one's folder with --model")

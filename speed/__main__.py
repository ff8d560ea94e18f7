"""
How fast and how large: this implementation against what one would otherwise run, in one process, on the same prompts,
weights, dtype and seed, in alternating repeats; medians and ratios.

    python -m speed rollout --model DIR        # against transformers' generate and llama.cpp, each at its best
    python -m speed update --model DIR         # against peft's forward pass and log_softmax over all logits
    python -m speed memory --shape 7b          # what fits into 24, 48 and 141 GB
    python -m speed step --model DIR           # a whole step, against generate, the same judging, peft
    python -m speed executor --data DIR        # against a pebble pool and a process per program
    python -m speed all --shape nano           # random weights in the shape of a family member
    python -m speed gpu --help                 # the engine alone on a CUDA card, in parts with time limits

Figures go to the screen, as one JSON object to the last line, and to runs/speed-MACHINE.json; with --publish to
results/.
"""
import command
command.starting(__name__)
import argparse
import json
import os
import sys
from pathlib import Path

import torch

import runfolder
from command import Parser, real, whole
from model import bf16_pays
from speed import measure
from speed.executors import executor
from speed.rollout import rollout
from speed.step import step
from speed.update import memory, update

# Each takes the parsed arguments and returns figures, which become NAME.key in the results.
WHAT = {"rollout": rollout, "update": update, "memory": memory, "step": step, "executor": executor}
SIZES = {  # what is not given, by where and what is run
    "cuda": dict(step_batch=64, slots=128, prompts=64, prompt_min=200, prompt_max=1500, response_median=300,
                 response_max=4096, batches=[64, 128, 256], attention=["sdpa"]),
    "nano": dict(step_batch=32, slots=256, prompts=64, prompt_min=30, prompt_max=240, response_median=50,
                 response_max=400, batches=[64, 128], attention=["sdpa", "eager"]),
    "cpu": dict(step_batch=2, slots=32, prompts=6, prompt_min=100, prompt_max=320, response_median=24,
                response_max=128, batches=[16, 48], attention=["sdpa", "eager"])}


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m speed", description=__doc__.partition("\n\nFigures")[0].strip(),
                    epilog="`python -m speed gpu --help` tells of one more, with options of its own.")
    parser.add_argument("what", choices=(*WHAT, "all"), help="see above")
    add, switch = parser.add_argument, argparse.BooleanOptionalAction
    add("--model", help="a folder or a hub name")
    add("--shape", choices=measure.SHAPES, default="nano", help="random weights of this shape, if no --model is given")
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu",
        help="cuda where there is one if not given")
    add("--dtype", choices=("fp32", "bf16"), help="of both sides; bf16 where it pays if not given")
    add("--compile", action=switch, help="torch.compile of our layers; on with CUDA")
    add("--repeats", type=whole(1, 1000), default=3, help="of each side, in turn")
    add("--seed", type=whole(-2**62, 2**62), default=0, help="of prompts, lengths and random weights")
    add("--publish", action="store_true", help="merge the figures into results/speed-MACHINE.json, not that of runs/")
    add("--slots", type=whole(1, 2**16), help="ours, responses at once; 32 on a CPU (nano 256), 128 on CUDA")
    add("--batches", type=whole(1, 2**16), nargs="+", help="batch sizes that generate may choose from")
    add("--attention", nargs="+", choices=("sdpa", "eager", "flash_attention_2"),
        help="generate's implementations to choose from: sdpa, and eager on a CPU")
    add("--continuous", action=switch, default=True, help="try transformers' continuous batching")
    add("--llamacpp", action=switch, default=True, help="try llama.cpp, on a CPU with llama-cpp-python and gguf")
    add("--kv_gb", type=real(0.001, 1e5), default=4.0, help="ours, memory for keys and values")
    add("--prompts", type=whole(1, 2**16), help="unique prompts")
    add("--n", type=whole(1, 2**12), default=8, help="responses to each")
    for name in ("prompt_min", "prompt_max", "response_median", "response_max"):
        add(f"--{name}", type=whole(4, 2**20), help="tokens of texts that are drawn")
    add("--update_rows", type=whole(1, 2**16), default=1, help="update: prompts in a pass")
    add("--update_n", type=whole(1, 2**12), default=1, help="update: responses to each of them")
    add("--update_prompt", type=whole(1, 2**20), default=512, help="update: tokens of a prompt")
    add("--update_response", type=whole(1, 2**20), default=4096, help="update: tokens of a response")
    add("--checkpoint_layers", action=switch, default=True, help="update: recompute layers, on both sides")
    add("--step_batch", type=whole(1, 2**16), help="step: B; 32 for nano, 64 on CUDA, else 2")
    add("--data", default=os.environ.get("AZR_DATA"), help="executor: folder with azr_seeds/")
    add("--length", type=whole(1, 2**20), default=4096, help="memory: positions of a slot and of a row")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no CUDA device here")
    args.name = Path(args.model).name if args.model else args.shape
    cuda, small = args.device == "cuda", args.name == "nano"
    for flag, value in SIZES["cuda" if cuda else "nano" if small else "cpu"].items():
        if getattr(args, flag) is None:
            setattr(args, flag, value)
    if args.prompt_min > args.prompt_max:
        parser.error(f"--prompt_min {args.prompt_min} is above --prompt_max {args.prompt_max}")
    args.compile = cuda if args.compile is None else args.compile
    args.dtype = args.dtype or ("bf16" if cuda or (not small and bf16_pays()) else "fp32")
    return args


def main(argv: list[str]) -> int:
    if argv[:1] == ["gpu"]:  # options of its own
        from speed import gpu
        return command.run("speed gpu", gpu.main, argv[1:])
    return command.run("speed", work, argv)


def work(argv: list[str]) -> None:
    args = arguments(argv)
    model = args.name if args.model else f"random {args.name}"
    figures = {"machine": measure.machine_name(args.device), "model": model, "dtype": args.dtype,
               "torch": torch.__version__}
    for what in WHAT if args.what == "all" else [args.what]:
        figures |= {f"{what}.{key}": value for key, value in WHAT[what](args).items()}
    folder = measure.HERE / "results" if args.publish else Path("runs")
    path, key = folder / f"speed-{figures['machine']}.json", f"{figures['model']} {args.dtype}"
    kept = json.loads(path.read_text()) if path.exists() else {}
    folder.mkdir(exist_ok=True)
    runfolder.write_file(path, json.dumps(kept | {key: kept.get(key, {}) | figures}, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""
How good a model is, before against after: the paper's benchmarks and held-out self-play tasks.

    python eval.py                                                       # nano on nano/heldout.jsonl
    python eval.py --model DIR --tasks code,reason --data DATA --out before
    python eval.py --model DIR --adapter runs/NAME/checkpoint/policy --tasks code,reason --data DATA --out after
    python eval.py --compare before after

Three stages write into the folder --out, and each can be run alone and again: responses (samples.jsonl, which a rerun
completes), verdicts (verdicts.jsonl, made without the model), and the table (summary.json, summary.md). This is the
command; the stages are in benchmarks/stages.py, the table and the comparison in benchmarks/summary.py.
"""
import command
command.starting(__name__)
import argparse
import hashlib
import json
import platform
import re
import sys
from pathlib import Path

import torch

from benchmarks import suite
from benchmarks.files import download
from benchmarks.items import DataError
from benchmarks.selfcheck import selfcheck
from benchmarks.stages import (Sampling, Work, complain, export_evalplus, generate_all, judge_all, names_of, prepare,
                               read_object, scorer, whole_lines)
from benchmarks.suite import BENCHMARKS, GROUPS
from benchmarks.summary import compare, summarise
from command import Parser, UserError, real, whole
from executor import LEVELS, Executor
from model import load_policy
from runfolder import sha256_of
from sandbox import host
from tasks import Style

HERE = Path(__file__).resolve().parent
NANO = HERE / "nano"


# ----------------------------------------------------------------------------------------------------------------
# The command line

def parse() -> argparse.Namespace:
    """The options, checked, with those that were not given. ValueError."""
    args = make_parser().parse_args()
    check(args)
    if args.tasks is None and not (args.selfcheck or args.fetch):
        args.tasks = str(NANO / "heldout.jsonl")
    if args.prompt is None:
        selfplay = not {*BENCHMARKS, *GROUPS} & set((args.tasks or "all").split(","))
        args.prompt = "compact" if selfplay and Path(args.model).resolve() == NANO and not args.samples else "azr"
    if args.out is None:  # a folder for these settings and no others
        settings = hashlib.sha256(json.dumps(settings_of(args)).encode()).hexdigest()[:8]
        name = args.samples.stem if args.samples else f"{Path(args.model).name}-{args.prompt}-{settings}"
        args.out = Path("evals") / name
    return args


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="eval.py", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--model", default=str(NANO), help="a hub name or a folder in Hugging Face format")
    add("--adapter", type=Path, help="a LoRA adapter folder, such as runs/NAME/checkpoint/policy")
    add("--load_in_4bit", action="store_true", help="frozen weights in NF4 (bitsandbytes)")
    add("--no_probe", action="store_true", help="do not compare logits with transformers' first")
    add("--tasks", help="names, groups (code, math, reason, all), task files or run folders, with commas; nano's"
        f" held-out file if not given. Names: {', '.join(BENCHMARKS)}")
    add("--data", type=Path, help="the folder with the benchmarks' files; if not given they are downloaded to a cache")
    add("--out", type=Path, help="the folder for samples, verdicts and the summary; one in evals/ if not given")
    add("--prompt", choices=(*suite.STYLES, "compact"), help="azr: as in training (default); chat: evalplus' for"
        " HumanEval and MBPP, else azr's in the chat template; qwen: the Qwen2.5-Coder report's; base: plain text to go"
        " on with; boxed: Qwen's for mathematics; compact: nano's (default for nano)")
    add("--n", type=whole(1, 2**12), default=1, help="samples per problem")
    add("--temperature", type=real(0, 100), default=0.0, help="0: greedy; AIME and AMC are then also sampled --averaged"
        " times")
    add("--averaged", type=whole(0, 2**12), help=f"samples of AIME and AMC at {suite.AVERAGE_TEMPERATURE} beside the"
        " greedy one; 16 if not given")
    add("--example", action="store_true", help="azr and chat: show CRUXEval and task files with the worked example of"
        " runs with --example")
    add("--stop_at_answer", action=argparse.BooleanOptionalAction, default=True, help="a response ends at </answer>"
        " where an answer part is asked for, as in training")
    add("--max_new_tokens", type=whole(1, 2**20), help="longest response; by task if not given")
    add("--seed", type=whole(-2**62, 2**62), default=0, help="fixes every draw")
    add("--limit", type=whole(1), help="only the first items of every task")
    add("--lcb_from", default="2024-10-01", help="LiveCodeBench: first contest date")
    add("--lcb_to", default="9999", help="LiveCodeBench: last contest date")
    add("--lenient", action="store_true", help="CRUXEval and LiveCodeBench execution: expressions count too, as in the"
        " official scorers; such answers can cheat")
    add("--stage", choices=("all", "generate", "score"), default="all", help="only make responses, or only judge them")
    add("--samples", type=Path, help="with --stage score: judge these, ours or evalplus' JSONL, and not --out's")
    add("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="compare two --out folders")
    add("--selfcheck", action="store_true", help="judge the data's own answers; all should pass")
    add("--fetch", type=Path, metavar="DIR", help="download the files of --tasks (all if not given) into DIR")
    add("--export_evalplus", type=Path, metavar="FILE", help="write --out's programs as evalplus' JSONL")
    add("--slots", type=whole(1, 2**16), default=64, help="responses generated at once")
    add("--kv_gb", type=real(0.001, 1e5), default=4.0, help="memory for keys and values")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"), help="cuda where"
        " there is one if not given")
    add("--dtype", default="auto", choices=("auto", "fp32", "bf16"), help="of weights and activations; auto: bf16 where"
        " it pays")
    add("--workers", type=whole(1, 1024), default=host.cores(), help="executor processes")
    add("--require", choices=LEVELS, default="kernel", help="the least sandbox to run programs in")
    return parser


def check(args: argparse.Namespace) -> None:
    """ValueError for what cannot be done."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: there is no CUDA device here")
    for name in ("lcb_from", "lcb_to"):
        if not re.fullmatch(r"\d{4}(-\d\d-\d\d)?", getattr(args, name)):
            raise ValueError(f"--{name} must be a date: YYYY-MM-DD")
    if args.n > 1 and args.temperature == 0:
        raise ValueError("--temperature must be above 0 with --n: greedy samples are all the same")
    if args.export_evalplus and args.stage == "generate":
        raise ValueError("--export_evalplus does not go with --stage generate")
    if args.samples and args.stage != "score":
        raise ValueError("--samples goes with --stage score")
    if args.samples and not args.samples.is_file():
        raise ValueError(f"--samples {args.samples}: no such file")
    if args.data and not args.data.is_dir():
        raise ValueError(f"--data {args.data}: no such folder")
    if args.selfcheck and not args.data:
        raise ValueError("--selfcheck needs --data DIR")


def settings_of(args: argparse.Namespace) -> dict:
    """What responses depend on. Other weights may come to lie in the same place: an adapter is told by its bytes, and a
    model, whose bytes take minutes to read, by the size and time of its files."""
    model, sampled = Path(args.model or "").expanduser(), args.model and not args.samples
    files, adapter = [], None
    if sampled:
        files = [(path, path.stat()) for path in sorted(model.glob("*.safetensors"))]
    if args.adapter:
        weights = [path.read_bytes() for path in sorted(args.adapter.glob("*.safetensors"))]
        adapter = hashlib.sha256(b"".join(weights)).hexdigest()
    return {"model": args.model if sampled else None,
            "weights": [[path.name, stat.st_size, stat.st_mtime_ns] for path, stat in files],
            "adapter": args.adapter and str(args.adapter), "adapter_sha256": adapter,
            "load_in_4bit": args.load_in_4bit, "dtype": args.dtype, "prompt": args.prompt, "example": args.example,
            "stop_at_answer": args.stop_at_answer, "n": args.n, "temperature": args.temperature,
            "averaged": args.averaged, "max_new_tokens": args.max_new_tokens, "seed": args.seed}


# ----------------------------------------------------------------------------------------------------------------
# What it does; every function returns the exit status

def do(args: argparse.Namespace) -> int:
    if args.compare:
        print(compare(*args.compare))
        return 0
    names, window = names_of(args.tasks or "all"), (args.lcb_from, args.lcb_to)
    if args.fetch:
        return fetch(names, window, args.fetch)
    if args.selfcheck and not args.tasks:  # what the folder has
        names = [name for name in names if any((args.data / file.name).is_file()
                                               for file in suite.files_of(BENCHMARKS[name], window))]
    style = Style({"azr": "r1"}.get(args.prompt, args.prompt), example=args.example)
    with scorer(args.workers, args.require, any(name in GROUPS["math"] for name in names)) as executor:
        works, left_out = prepare(names, args.data, executor, style, args.limit, window)
        tell(left_out)
        if args.selfcheck:
            good = selfcheck(works, args.data, executor)
            return 0 if good and not left_out else 1
        return run_stages(args, works, executor) or 2 * bool(left_out)


def tell(lines: list[str], most: int = 20) -> None:
    for line in lines[:most]:
        complain(line)
    if len(lines) > most:
        complain(f"... and {len(lines) - most} more")


def fetch(names: list[str], window: tuple[str, str], folder: Path) -> int:
    """Downloads what is missing; one that fails does not keep the others from coming."""
    status = 0
    for file in dict.fromkeys(file for name in names if name in BENCHMARKS
                              for file in suite.files_of(BENCHMARKS[name], window)):
        path = folder / file.name
        try:
            if not path.is_file():
                print(f"{file.url} -> {path}", flush=True)
                download(file.url, file.sha256, path)
            elif file.sha256 and sha256_of(path) != file.sha256:
                raise DataError(f"{path} is there, but not the file of {file.url}; remove it to download that")
        except DataError as error:
            complain(str(error))
            status = 2
    return status


def run_stages(args: argparse.Namespace, works: list[Work], executor: Executor) -> int:
    """The stages: responses, verdicts, the table. Non-zero if anything that was asked for has no verdict."""
    settings, source, prompt = settings_of(args), args.samples or args.out / "samples.jsonl", args.prompt
    kept = source.parent / "settings.json"
    if args.stage == "score" and kept.is_file():  # responses are read in the way they were asked for
        settings = read_object(kept.read_bytes(), str(kept))
        prompt = settings.get("prompt")
    if not works:
        return 2
    for work in works:
        if prompt not in work.kind.prompts:
            raise ValueError(f"--prompt {prompt} is not for {work.title}; choose from {', '.join(work.kind.prompts)}")
    if args.stage != "score":
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(args.dtype, args.dtype)
        policy = load_policy(args.model, args.device, load_in_4bit=args.load_in_4bit, adapter=args.adapter, dtype=dtype,
                             probed=not args.no_probe)
        sampling = Sampling(prompt, args.n, args.temperature, args.max_new_tokens, args.seed, args.slots, args.kv_gb,
                            args.example, args.stop_at_answer, args.averaged)
        generate_all(policy, works, sampling, settings, args.out)
    if args.stage == "generate":
        return 0
    if not source.is_file():
        raise ValueError(f"{source}: no samples; run --stage generate first, or give --samples FILE")
    rows = whole_lines(source)
    if args.export_evalplus:
        count = export_evalplus(works, rows, prompt, args.export_evalplus)
        print(f"{count} programs written to {args.export_evalplus}")
    verdicts, left_out = judge_all(works, rows, prompt, executor, args.lenient, args.out)
    tell(left_out)
    works = [work for work in works if any(row["task"] == work.name for row in verdicts)]
    settings |= {"lenient": args.lenient, "python": platform.python_version()}
    print(summarise(works, verdicts, settings, args.out))
    print(f"written to {args.out}")
    return 2 if left_out else 0


def work(argv: list[str]) -> int:
    try:
        return do(parse())
    except (ValueError, ImportError) as error:
        raise UserError(str(error)) from error
    except KeyboardInterrupt as error:
        error.add_note("run the same command again to go on")
        raise


def main() -> int:
    return command.run("eval.py", work, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

"""
How good a model is, before against after: the paper's benchmarks and held-out self-play tasks.

    python eval.py                                                       # nano on nano/heldout.jsonl
    python eval.py --model DIR --tasks code,reason --data DATA --out before
    python eval.py --model DIR --adapter runs/NAME/checkpoint/policy --tasks code,reason --data DATA --out after
    python eval.py --compare before after
    python eval.py --endpoint http://localhost:8000 --prompt chat --tasks code,reason --data DATA

Three stages write into the folder --out, and each can be run alone and again: responses (samples.jsonl, which a rerun
completes), verdicts (verdicts.jsonl, made without the model), and the table (summary.json, summary.md). This is the
command; the stages are in benchmarks/stages.py, other engines than ours in benchmarks/endpoint.py, the table and the
comparison in benchmarks/summary.py.
"""
import command
command.starting(__name__)
import argparse
import hashlib
import json
import platform
import re
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import torch

from benchmarks import endpoint, stages, suite
from benchmarks.files import download
from benchmarks.items import DataError
from benchmarks.selfcheck import selfcheck
from benchmarks.stages import (Sampling, Work, complain, export_evalplus, generate_all, judge_all, names_of, prepare,
                               read_object, scorer, whole_lines)
from benchmarks.suite import BENCHMARKS, GROUPS
from benchmarks.summary import compare, summarise
from command import HERE, Parser, UserError, real, whole
from executor import LEVELS, Executor
from model import load_policy
from runfolder import sha256_of, write_file
from sandbox import host
from tasks import Style

NANO = HERE / "nano"


# ----------------------------------------------------------------------------------------------------------------
# The command line

def parse(argv: list[str]) -> argparse.Namespace:
    """The options, checked, with those that were not given. ValueError."""
    args = make_parser().parse_args(argv)
    check(args)
    if args.tasks is None and not (args.selfcheck or args.fetch):
        args.tasks = str(NANO / "heldout.jsonl")
    if args.prompt is None:
        selfplay = not foreign(args) and not {*BENCHMARKS, *GROUPS} & set((args.tasks or "all").split(","))
        args.prompt = "compact" if selfplay and Path(args.model).resolve() == NANO and not args.samples else "azr"
    if args.out is None:  # a folder for these settings and no others
        settings = hashlib.sha256(json.dumps(settings_of(args)).encode()).hexdigest()[:8]
        model = Path(args.endpoint_model or (urlsplit(args.endpoint).netloc if args.endpoint else args.model)).name
        args.out = Path("evals") / (args.samples.stem if args.samples else f"{model}-{args.prompt}-{settings}")
    return args


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python eval.py", description=__doc__.split("\n\n")[0])

    add = parser.add_argument_group("what is asked").add_argument
    add("--tasks", help="names, groups (code, math, reason, all), task files or run folders, with commas; nano's"
        f" held-out file if not given. Names: {', '.join(BENCHMARKS)}")
    add("--data", type=Path, help="the folder with the benchmarks' files; if not given they are downloaded to a cache")
    add("--limit", type=whole(1), help="only the first items of every task")
    add("--lcb_from", default="2024-10-01", help="LiveCodeBench: first contest date")
    add("--lcb_to", default="9999", help="LiveCodeBench: last contest date")
    add("--prompt", choices=(*suite.STYLES, "compact"), help="azr: as in training (default); chat: evalplus' for"
        " HumanEval and MBPP, else azr's in the chat template; qwen: the Qwen2.5-Coder report's; base: plain text to go"
        " on with; boxed: Qwen's for mathematics; compact: nano's (default for nano)")
    add("--example", action="store_true", help="azr and chat: show CRUXEval and task files with the worked example of"
        " runs with --example")
    add("--system", metavar="TEXT", help="the system's turn of chat prompts, in place of a style's own")
    add("--template_args", default="{}", metavar="JSON", help="what else the chat template is told, such as"
        " '{\"enable_thinking\": false}'")

    add = parser.add_argument_group("who answers").add_argument
    add("--model", default=str(NANO), help="a hub name or a folder in Hugging Face format")
    add("--adapter", type=Path, help="a LoRA adapter folder, such as runs/NAME/checkpoint/policy")
    add("--load_in_4bit", action="store_true", help="frozen weights in NF4 (bitsandbytes)")
    add("--no_probe", action="store_true", help="do not compare logits with transformers' first")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"), help="cuda where"
        " there is one if not given")
    add("--dtype", default="auto", choices=("auto", "fp32", "bf16"), help="of weights and activations; auto: bf16 where"
        " it pays")
    add("--slots", type=whole(1, 2**16), default=64, help="responses generated at once")
    add("--kv_gb", type=real(0.001, 1e5), default=4.0, help="memory for keys and values")

    add = parser.add_argument_group("who answers, if a server").add_argument
    add("--endpoint", metavar="URL", help="ask a server with OpenAI's interface (vLLM, SGLang, llama.cpp, ollama, a"
        " service), such as http://localhost:8000/v1, and load no model; a key is taken from OPENAI_API_KEY")
    add("--endpoint_model", metavar="NAME", help="the server's name of the model; the only one it has if not given")
    add("--concurrency", type=whole(1, 4096), default=16, help="endpoint: requests at once")
    add("--timeout", type=real(0.001, 10**6), default=600.0, help="endpoint: seconds to wait for a response")
    add("--bare", action="store_true", help="endpoint: only what OpenAI's own interface has, for services that refuse"
        " the rest: no beginning of the answer, four stops at most, the service's own top_k and penalties")
    add("--top_p", type=real(0.0001, 1), default=1.0, help="endpoint: sample from the most likely tokens with this much"
        " of the probability")

    add = parser.add_argument_group("how").add_argument
    add("--n", type=whole(1, 2**12), default=1, help="samples per problem")
    add("--temperature", type=real(0, 100), default=0.0, help="0: greedy; AIME and AMC are then also sampled --averaged"
        " times")
    add("--averaged", type=whole(0, 2**12), help=f"samples of AIME and AMC at {suite.AVERAGE_TEMPERATURE} beside the"
        " greedy one; 16 if not given")
    add("--max_new_tokens", type=whole(1, 2**20), help="longest response; by task if not given")
    add("--stop_at_answer", action=argparse.BooleanOptionalAction, default=True, help="a response ends at </answer>"
        " where an answer part is asked for, as in training")
    add("--seed", type=whole(-2**62, 2**62), default=0, help="fixes every draw")

    add = parser.add_argument_group("how it is judged").add_argument
    add("--lenient", action="store_true", help="CRUXEval and LiveCodeBench execution: expressions count too, as in the"
        " official scorers; such answers can cheat")
    add("--workers", type=whole(1, 1024), default=host.cores(), help="executor processes")
    add("--require", choices=LEVELS, default="kernel", help="the least sandbox to run programs in")

    add = parser.add_argument_group("what is written, and other work").add_argument
    add("--out", type=Path, help="the folder for samples, verdicts and the summary; one in evals/ if not given")
    add("--stage", choices=("all", "prompts", "generate", "score"), default="all", help="only make responses, or only"
        " judge them; prompts: write them into prompts.jsonl, for any other engine (format: benchmarks/endpoint.py)")
    add("--samples", type=Path, help="with --stage score: judge these and not --out's: answers to prompts.jsonl, ours"
        " or evalplus' JSONL")
    add("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="compare two --out folders")
    add("--selfcheck", action="store_true", help="judge the data's own answers; all should pass")
    add("--fetch", type=Path, metavar="DIR", help="download the files of --tasks (all if not given) into DIR")
    add("--export_evalplus", type=Path, metavar="FILE", help="write --out's programs as evalplus' JSONL")
    return parser


def check(args: argparse.Namespace) -> None:
    """ValueError for what cannot be done."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: there is no CUDA device here")
    check_endpoint(args)
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


def foreign(args: argparse.Namespace) -> bool:
    """Whether another engine than ours responds."""
    return bool(args.endpoint or args.stage == "prompts")


def check_endpoint(args: argparse.Namespace) -> None:
    if args.endpoint:
        args.endpoint = endpoint.check_url(args.endpoint)
    if foreign(args):
        if args.model != str(NANO) or args.adapter or args.load_in_4bit:
            raise ValueError("--model, --adapter and --load_in_4bit are for our own engine; another's model is named by"
                             " --endpoint_model")
    elif not args.samples and (args.endpoint_model or args.bare or args.top_p != 1):
        raise ValueError("--endpoint_model, --bare and --top_p go with --endpoint or --stage prompts")
    args.template_args = read_object(args.template_args.encode(), "--template_args")
    if args.bare and args.template_args:
        raise ValueError("--template_args do not go with --bare: OpenAI's interface has no such thing")


def settings_of(args: argparse.Namespace) -> dict:
    """What responses depend on. Other weights may come to lie in the same place: an adapter is told by its bytes, and a
    model, whose bytes take minutes to read, by the size and time of its files."""
    model, sampled = Path(args.model or "").expanduser(), args.model and not args.samples and not foreign(args)
    later = {"top_p": args.top_p != 1 and args.top_p, "system": args.system, "template_args": args.template_args,
             "endpoint": args.endpoint, "bare": args.bare}  # named where given: older folders go on
    files, adapter = [], None
    if sampled:
        files = [(path, path.stat()) for path in sorted(model.glob("*.safetensors"))]
    if args.adapter:
        weights = [path.read_bytes() for path in sorted(args.adapter.glob("*.safetensors"))]
        adapter = hashlib.sha256(b"".join(weights)).hexdigest()
    return {"model": args.model if sampled else args.endpoint_model,
            "weights": [[path.name, stat.st_size, stat.st_mtime_ns] for path, stat in files],
            "adapter": args.adapter and str(args.adapter), "adapter_sha256": adapter,
            "load_in_4bit": args.load_in_4bit, "dtype": args.dtype, "prompt": args.prompt, "example": args.example,
            "stop_at_answer": args.stop_at_answer, "n": args.n, "temperature": args.temperature,
            "averaged": args.averaged, "max_new_tokens": args.max_new_tokens, "seed": args.seed} | {
                name: value for name, value in later.items() if value not in (None, False, {})}


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
            good = selfcheck(works, executor)
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
    sampling = Sampling(prompt, slots=args.slots, kv_gb=args.kv_gb, **{
        each.name: settings[each.name] for each in fields(Sampling) if each.name in settings})
    not_had = [] if args.stage == "score" else respond(args, works, sampling, settings)
    if args.stage in ("prompts", "generate"):
        return 2 if not_had else 0
    if not source.is_file():
        raise ValueError(f"{source}: no samples; run --stage generate first, or give --samples FILE")
    rows, failed = endpoint.read_answers(whole_lines(source), works, sampling, bool(settings.get("bare")))
    if args.export_evalplus:
        count = export_evalplus(works, rows, prompt, args.export_evalplus)
        print(f"{count} programs written to {args.export_evalplus}")
    verdicts, left_out = judge_all(works, rows, prompt, executor, args.lenient, args.out)
    tell(left_out := left_out + failed)
    works = [work for work in works if any(row["task"] == work.name for row in verdicts)]
    settings |= {"lenient": args.lenient, "python": platform.python_version()}
    print(summarise(works, verdicts, settings, args.out))
    print(f"written to {args.out}")
    return 2 if left_out or not_had else 0


def respond(args: argparse.Namespace, works: list[Work], sampling: Sampling, settings: dict) -> list[str]:
    """Responses, of our own engine or a server, or what another is to be asked; a line for each that cannot be had."""
    for work in works:
        if (args.system is not None or args.template_args) and stages.asked(work, work.items[0], sampling).text:
            raise ValueError(f"--system and --template_args are for chats; --prompt {sampling.style} asks {work.title}"
                             " in plain text")
    if args.stage == "prompts":
        stages.claim(args.out, settings)
        lines = list(endpoint.lines_of(works, sampling, args.endpoint_model, args.bare))
        write_file(args.out / "prompts.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        print(f"{len(lines)} requests written to {args.out / 'prompts.jsonl'}; judge what answers them with --stage"
              " score --samples FILE, with FILE in the same folder: its settings.json says how they were asked for")
        return []
    if args.endpoint:
        server, about = endpoint.connect(args.endpoint, args.endpoint_model, args.bare, args.concurrency, args.timeout)
        settings |= {"model": server.model} | ({"served": about} if about else {})
        generate_all(partial(endpoint.responses, server), works, sampling, settings, args.out)
        tell(server.failed)
        return server.failed
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(args.dtype, args.dtype)
    policy = load_policy(args.model, args.device, load_in_4bit=args.load_in_4bit, adapter=args.adapter, dtype=dtype,
                         probed=not args.no_probe)
    generate_all(partial(stages.responses, policy), works, sampling, settings, args.out)
    return []


def work(argv: list[str]) -> int:
    try:
        return do(parse(argv))
    except (ValueError, ImportError) as error:
        raise UserError(str(error)) from error
    except KeyboardInterrupt as error:
        error.add_note("run the same command again to go on")
        raise


def main() -> int:
    return command.run("eval.py", work, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

"""A whole step of train.py, against generate, the same judging, and peft with full logits."""
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from transformers import AutoTokenizer

import sampler
import tasks
import train
from executor import Executor
from model import Policy, pad
from speed.measure import HERE, SHAPES, both_models, seconds
from speed.rollout import baseline

sys.path.append(str(HERE / "nano"))
import make  # noqa: E402  # nano's grammar


def open_run(policy: Policy, executor: Executor, folder: str, args) -> train.Training:
    small = policy.config.hidden_size == SHAPES["nano"][1]
    if policy.tokenizer is None:
        policy.tokenizer = AutoTokenizer.from_pretrained(HERE / "nano")
    policy.stop_ids = frozenset()  # rows end at their drawn length
    cfg = train.Config(batch_size=args.step_batch, n_probes=args.n, references=2, n_inputs=6, slots=args.slots,
                       max_new_tokens=args.response_max, max_prompt_tokens=2048, temperature=1.0, kv_gb=args.kv_gb,
                       heldout_fraction=0.0, seed=args.seed, lr=0.0, checkpoint_layers=args.checkpoint_layers)
    style = tasks.Style("compact" if small else "r1", cfg.n_inputs)
    return train.Training(cfg, Path(folder), policy, train.make_optimizer(cfg, policy), executor, style,
                          tasks.Buffers(cfg.buffer_size), step=1, kv_gb=args.kv_gb)


class Script:
    """In place of what train.py calls, so that the executor has the work of a policy that knows the form, whatever the
    weights: lengths are drawn as in `rollout`, and the sampled texts are replaced by tasks of nano's grammar and by
    right and wrong answers. It notes what was asked for, and for how long the executor judged."""
    def __init__(self, args):
        self.args, self.work, self.texts, self.judging, self.judge = args, [], {}, 0.0, train.judge

    def patches(self) -> dict[str, Callable]:
        return {"add": self.add, "advance": self.advance, "decode": lambda policy, ids: self.texts.pop(id(ids)),
                "judge": self.judged}

    def add(self, rollout, prompt: list[int], n: int = 1, tag: list = (), key: str = "", stops=()) -> sampler.Request:
        rng = random.Random(f"{self.args.seed} {key}")
        lengths = [max(4, min(self.args.response_max, round(rng.lognormvariate(0, 0.9) * self.args.response_median)))
                   for _ in range(n)]
        self.work.append((tag[0].kind, prompt, lengths))
        return sampler.add(rollout, prompt, n, limit=lengths, tag=tag, key=key)

    def advance(self, rollout) -> list[tuple]:
        finished = sampler.advance(rollout)
        for request, number, sample in finished:
            row = request.tag[number]
            self.texts[id(sample.ids)] = scripted(row, random.Random(f"{row.prompt} {number}"))
        return finished

    def judged(self, run, rows: list) -> None:
        self.judging += seconds("cpu", lambda: self.judge(run, rows))


def scripted(row: train.Row, rng: random.Random) -> str:
    """A response to the row's prompt in the right form: a task of nano's grammar, or an answer, one in two right."""
    if row.role == "propose":
        if row.type == "induction":
            values = rng.sample(range(-50, 50), 6)
            blocks = [("input", tasks.arguments((v,))) for v in values] + [("message", "a function")]
            blocks = blocks if not row.references else [
                ("input", tasks.arguments(row.references[0].inputs[0])), *blocks[1:]]
        else:
            wishes = make.draw_wishes(make.pick(make.DEPTHS, rng), rng)
            task = make.draw_task(row.type, wishes, rng)[0]
            blocks = [("python", task.program), ("input", tasks.arguments(task.inputs[0]))]
    else:
        wrong = rng.random() < 0.5
        answers = {"deduction": ("output", "'no'" if wrong else tasks.show(row.task.outputs[0])),
                   "abduction": ("input", "'no'" if wrong else tasks.arguments(row.task.inputs[0])),
                   "induction": ("python", tasks.IDENTITY if wrong else row.task.program)}
        blocks = [answers[row.type]]
    return " </think><answer>" + "\n".join(tasks.fence(*block) for block in blocks) + "</answer>"


def full_logits(run: train.Training, rows: list, device: str) -> None:
    """The gradient of the rows' log-probs as peft and transformers give it: a row a response, micro-batches as large as
    ours."""
    policy, shared = run.policy, run.policy.share_prompts
    policy.share_prompts = 0
    batches, policy.share_prompts = train.micro_batches(run, rows, run.cfg.micro_tokens), shared
    for _, micro in batches:
        ids_BT, _ = pad([rows[i].prompt_ids + rows[i].sample.ids for i in micro], device)
        mask_BT = torch.zeros_like(ids_BT)
        for b, i in enumerate(micro):
            mask_BT[b, :len(rows[i].prompt_ids) + len(rows[i].sample.ids)] = 1
        logits = policy.model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits[:, :-1].float()
        logp_BT = logits.log_softmax(-1).gather(-1, ids_BT[:, 1:, None])[..., 0]
        logp_BT.mean().backward()
    policy.model.zero_grad()


def step(args) -> dict:
    """Ours is `train.train_step` as it is, but for what Script replaces; the baseline is given the time that the
    executor took."""
    policy, plain = both_models(args)
    times: dict[str, list[float]] = {"ours": [], "judging": [], "baseline": []}
    for _ in range(args.repeats):
        script, rows = Script(args), []
        with Executor(workers=2, require="weak") as executor, tempfile.TemporaryDirectory() as folder:
            run = open_run(policy, executor, folder, args)
            for task in tasks.load_tasks(str(HERE / "nano" / "heldout.jsonl"), executor)[:48]:
                run.buffers.add(task)
            with mock.patch.multiple(train, **script.patches()):
                times["ours"].append(seconds(args.device, lambda: rows.extend(train.train_step(run)[0])))
        trained = [row for row in rows if row.kind != "probe" and row.reward is not None]

        def phases() -> None:
            for kind in ("propose", "probe", "solve"):
                asked = [(prompt, lengths) for other, prompt, lengths in script.work if other == kind]
                baseline(plain, asked, args, args.batches[0])
            full_logits(run, trained, args.device)
        times["judging"].append(script.judging)
        times["baseline"].append(seconds(args.device, phases) + script.judging)
    took = {name: statistics.median(values) for name, values in times.items()}
    count, tokens = (sum(measure(lengths) for _, _, lengths in script.work) for measure in (len, sum))
    print(f"step: B {args.step_batch} x 3 types, n {args.n}: {count} responses, {tokens:,} tokens, {len(trained)}"
          f" trained\n  ours {took['ours']:.1f} s, of it {took['judging']:.2f} s the executor; baseline"
          f" {took['baseline']:.1f} s: {took['baseline'] / took['ours']:.2f} times")
    return {"ratio": took["baseline"] / took["ours"], "rows": count, "tokens": tokens, "seconds": times}

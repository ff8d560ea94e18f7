"""
Absolute Zero Reasoner: one model proposes Python reasoning tasks and solves them, a Python executor says what is true,
and both roles learn by reinforcement. No human data (Zhao et al. 2025, arXiv 2505.03335).

    seed the buffers: the model proposes from the identity program alone, no learning
    every step, for deduction (program, input -> output), abduction (program, output -> input) and induction
    (examples -> program):
        propose    B tasks, each shown K earlier tasks as references
        gate       keep those that parse, import only what is allowed, run, and are deterministic
        probe      n answers to each valid task by the model itself; the proposer's reward is 0 if the task was
                   solved never or always, else 1 - solve rate
        solve      B tasks, the new ones first; the solver's reward is 1 if correct
                   (both roles: -0.5 or -1 if wrong or invalid, -1 without <think>...</think><answer>...</answer>)
        advantage  TRR++: (reward - mean) / std within each of the 3 types x 2 roles
        update     one step of clipped policy gradient on all 6 B responses

Where we depart from the paper (the README has the table with reasons): LoRA instead of all weights; K, B and lengths
are preset by hardware; tasks must have literal inputs and outputs; full buffers drop the oldest task; 5% of programs
are held out.

    python train.py                                     # preset by hardware: nano without CUDA, 1.5b or 3b with it
    python train.py --preset nano --steps 20 --name try # any field of Config is a flag
    python train.py --model ~/models/Qwen2.5-Coder-3B   # a local folder or a hub name
    python train.py --resume runs/try --steps 100       # go on where it stopped
"""
import argparse
import fcntl
import hashlib
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, Optional, get_args, get_origin

import torch
from tqdm import tqdm

import eval as evaluation
from benchmarks import selfplay
import runfolder as record
import rewards
import tasks
from executor import Executor, ExecutorError
from model import (ModelError, Policy, adapter_off, chat_template, decode, load_policy, logprobs, save_policy,
                   side_by_side, update_bytes)
from sampler import Rollout, Sample, add, advance, generate, idle, start_rollout
from tasks import TYPES, Buffers, Gated, Style, Task, TaskType, Verdict

HERE = Path(__file__).resolve().parent


def opt(default, help: str, least: float | None = None, above: float | None = None, running: bool = False):
    """A flag: its range, and whether it may change on --resume (how long and how a run runs, and where its files lie)."""
    return field(default=default, metadata={"help": help, "least": least, "above": above, "running": running})


@dataclass
class Config:
    # the run
    preset: Optional[str] = opt(None, "nano, 0.5b, 1.5b, 3b or 7b: sets the model and sizes; by hardware if not given")
    model: Optional[str] = opt(None, "a hub name or a folder in Hugging Face format; by preset if not given", running=True)
    name: Optional[str] = opt(None, "the run's folder is runs/NAME; preset and time if not given")
    resume: Optional[str] = opt(None, "a run folder to go on with; only --steps and other running flags may be changed", running=True)
    steps: int = opt(500, "training steps (paper: 500)", least=1, running=True)
    seed: int = opt(0, "fixes every random draw")
    device: Optional[str] = opt(None, "cuda or cpu; cuda where there is one if not given", running=True)
    # the method
    types: list[str] = field(default_factory=lambda: [name for name in TYPES if TYPES[name].paper], metadata={"help": "task types to train"})
    batch_size: int = opt(64, "B: proposals, and tasks to solve, per type and step (paper: 64)", least=1)
    references: int = opt(6, "K: earlier tasks shown to the proposer (paper: 6; 0 is its ablation without references)", least=0)
    n_probes: int = opt(8, "n: solver samples that measure a task's solve rate (paper: 8)", least=1)
    n_inputs: int = opt(10, "N: inputs of an induction task, half of them hidden (paper: 10)")
    seed_factor: int = opt(4, "S: seeding collects B x S tasks per type (paper: 4)", least=1)
    seed_tasks: Optional[str] = opt(None, "a task file to start from instead of seeding by the model")
    prompt: Literal["r1", "chat", "compact"] = opt("r1", "r1: instructions for base models; chat: the same in the chat"
                                                   " template; compact: a few tokens, for nano")
    train_propose: bool = opt(True, "train on the proposer's responses too (off: the paper's solver-only ablation)")
    propose_from: str = opt("policy", "who proposes: policy (paper); start, the model before training; or a task file."
                            " The latter two are controls, and nothing is learned from their proposals")
    control: Literal["none", "shuffled", "random"] = opt("none", "controls: shuffled gives the valid proposals of a"
                                                         " step each other's rewards, random judges answers by a coin")
    solve_tasks: Literal["this", "previous", "probes"] = opt("this", "what trains the solver: a fresh answer to each of B"
        " tasks, those of this step first (paper) or of the previous one (official code); or probes, this step's own")
    extreme_reward: float = opt(0.0, "proposer's reward for a task solved never or always: 0 (paper), -0.5 (official)")
    invalid_reward: float = opt(-1.0, "proposer's reward for a well-formed proposal that fails the gate")
    advantage: Optional[Literal["trr++", "reinforce++", "grpo"]] = opt(None, "trr++: a baseline per type and role"
        " (paper); reinforce++: one for all; grpo: one per task's probes. If not given trr++, with --solve_tasks probes grpo")
    whitening: Literal["response", "token"] = opt("response", "mean and std over responses (paper), tokens (official)")
    loss_mean: Literal["response", "token", "group"] = opt("response", "mean over responses (paper), over all tokens,"
                                                           " or over tokens within each type and role (official)")
    solve_weight: float = opt(1.0, "lambda: what the solver's rows count against the proposer's (paper: 1)", least=0)
    heldout_fraction: float = opt(0.05, "share of programs never trained on nor shown, kept for evaluation")
    buffer_size: int = opt(16384, "tasks kept per type; the oldest are dropped (official: 16384, drops the newest)", least=1)
    # sampling
    temperature: float = opt(1.0, "of proposals, probes and answers (paper: 1)", above=0)
    max_new_tokens: int = opt(8096, "longest response (paper: 8096)", least=1)
    max_prompt_tokens: int = opt(6144, "longest prompt (paper: 6144)", least=1)
    slots: int = opt(128, "responses generated at once", least=1, running=True)
    kv_gb: float = opt(0.0, "memory for keys and values in generation, fewer slots where they do not fit; 0: 4 GB on a"
                            " CPU, half of what is free after loading on CUDA", least=0, running=True)
    # the update
    lora_rank: int = opt(16, "rank of the LoRA adapters on all linear layers; 0 trains all weights", least=0)
    lora_alpha: float = opt(32.0, "LoRA scale is alpha / rank", above=0)
    dtype: Literal["auto", "fp32", "bf16"] = opt("auto", "of frozen weights and activations; auto: bf16 on CUDA and for"
                                                 " all but tiny models on a CPU with bf16 matmuls, else fp32")
    compile: Optional[bool] = opt(None, "torch.compile for the layers; on with CUDA if not given. On a CPU it takes 20"
                                  " seconds and gains nothing", running=True)
    load_in_4bit: bool = opt(False, "keep the frozen weights in NF4 (bitsandbytes)")
    optim: Literal["adamw", "adamw8bit"] = opt("adamw", "adamw8bit needs bitsandbytes")
    lr: float = opt(1e-5, "learning rate, constant (paper: 1e-6 on all weights; LoRA wants about ten times that)", above=0)
    norm_lr: float = opt(0.0, "learning rate of the norms' weights, which LoRA leaves alone; 0: frozen, or --lr where"
                         " all weights are trained", least=0)
    lr_final: float = opt(1.0, "share of the learning rate left at the last of --steps, on a straight line; 1 is"
                          " constant (paper). More steps on --resume make it rise again", least=0)
    weight_decay: float = opt(0.0, "AdamW weight decay", least=0)
    grad_clip: float = opt(1.0, "largest gradient norm (paper's code: 1)", above=0)
    epochs: int = opt(1, "passes over a step's responses (paper's code: 1)", least=1)
    minibatches: int = opt(1, "optimizer updates per pass (paper's code: 1)", least=1)
    clip_low: float = opt(0.2, "PPO clip below 1")
    clip_high: float = opt(0.2, "PPO clip above 1", above=0)
    kl_coef: float = opt(0.0, "weight of KL(policy || starting model) in the loss", least=0)
    entropy_coef: float = opt(0.0, "weight of the entropy bonus", least=0)
    micro_tokens: int = opt(16384, "padded tokens per forward-backward pass, halved where memory runs out; changes"
                                   " results only by rounding; 0: as free memory allows", least=0, running=True)
    checkpoint_layers: bool = opt(False, "recompute layers in the backward pass: less memory, a third more time", running=True)
    # the executor
    workers: int = opt(max(1, os.cpu_count() or 1), "executor processes", least=1, running=True)
    cpu_seconds: float = opt(1.0, "CPU time of one run of a program", above=0)
    memory_mb: int = opt(512, "memory of one run of a program", least=1)
    require: Literal["kernel", "partial", "weak"] = opt("kernel", "the least sandbox to run programs in; below kernel"
                                                        " they can reach more than their own result", running=True)
    # evaluation, logs, checkpoints
    heldout_tasks: Optional[str] = opt(None, "a task file to evaluate on, beside the run's own held-out tasks", running=True)
    eval_every: int = opt(0, "steps between evaluations on the held-out file and --eval_tasks; 0: only at the end", least=0, running=True)
    eval_samples: int = opt(0, "answers at --temperature to each held-out task in those evaluations, beside the greedy"
                            " one", least=0, running=True)
    eval_tasks: list[str] = field(default_factory=list, metadata={"running": True, "help": "benchmarks of eval.py, greedily, at step 0"
                                                                  " and every --eval_every steps"})
    eval_data: Optional[str] = opt(None, "the folder with their files, as eval.py's --data", running=True)
    eval_limit: int = opt(1200, "held-out tasks used: the first of the file, and the newest of the run's own per type", least=0, running=True)
    keep_samples: int = opt(-1, "responses written to samples.jsonl per step, type and kind; -1 is all", running=True)
    save_every: int = opt(1, "steps between checkpoints", least=1, running=True)
    report_every: int = opt(0, "steps between reports (report.html in the run's folder); 0: only at the end", least=0, running=True)
    tensorboard: bool = opt(False, "mirror metrics.jsonl for TensorBoard, in the run's folder", running=True)
    wandb: bool = opt(False, "mirror metrics.jsonl to Weights & Biases", running=True)


PRESETS = {
    "nano": dict(model=str(HERE / "nano"), prompt="compact", batch_size=32, references=2, n_inputs=6, seed_factor=2,
                 solve_tasks="probes", max_new_tokens=192, max_prompt_tokens=512, slots=256, steps=40, lr=2e-3,
                 norm_lr=8e-3, lr_final=0.1, micro_tokens=2048, cpu_seconds=0.5,
                 heldout_tasks=str(HERE / "nano" / "heldout.jsonl")),
    "0.5b": dict(model="Qwen/Qwen2.5-Coder-0.5B", max_new_tokens=1024, max_prompt_tokens=3072, slots=256,
                 checkpoint_layers=True),
    "1.5b": dict(model="Qwen/Qwen2.5-Coder-1.5B", max_new_tokens=2048, max_prompt_tokens=4096, checkpoint_layers=True),
    "3b": dict(model="Qwen/Qwen2.5-Coder-3B", max_new_tokens=4096, checkpoint_layers=True),
    "7b": dict(model="Qwen/Qwen2.5-Coder-7B", max_new_tokens=4096, checkpoint_layers=True),
}
DTYPES = {"auto": "auto", "fp32": torch.float32, "bf16": torch.bfloat16}
MOST_MICRO_TOKENS = 65536  # with --micro_tokens 0; larger passes are no faster
RUNNING_FLAGS = {f.name for f in fields(Config) if f.metadata.get("running")}


class UserError(Exception):
    """What the user gave cannot work; the text is one line that says what is wrong and what to do."""


# ----------------------------------------------------------------------------------------------------------------
# One training step, in the order of the paper's algorithm 1

@dataclass(eq=False)
class Row:
    """One response and all that is known of it. Its token ids are those that were sampled; text is for reading only."""
    role: str                # propose or solve
    kind: str                # propose, probe or solve: why it was sampled
    type: str
    prompt: str
    prompt_ids: list[int]
    sample: Sample
    text: str
    task: Task | None        # what it solves, or the valid task it proposed
    reference: Task | None   # propose: the first reference, for induction the program it was given
    well_formed: bool = False
    verdict: str = ""        # gate reason, or the verdict's reason
    solve_rate: float | None = None
    reward: float | None = None  # None: not rewarded (probes that only measure, held-out proposals, seeding)
    advantage: float = 0.0
    references: list[Task] = field(default_factory=list)  # propose: all that it was shown


@dataclass
class Training:
    """Everything a step needs. What changes is in `policy`, `optimizer`, `buffers` and `step`: that is what a
    checkpoint holds."""
    cfg: Config
    folder: Path
    policy: Policy
    optimizer: torch.optim.Optimizer
    executor: Executor
    style: Style
    buffers: Buffers
    step: int = 0
    given: list[Task] | None = None  # what --propose_from FILE holds
    frozen: list[Task] = field(default_factory=list)  # the held-out file
    works: list = field(default_factory=list)         # --eval_tasks
    frozen_keys: set[str] = field(default_factory=set)  # its programs are never trained on either
    kv_gb: float = 4.0
    micro_tokens: int = 0  # as found from free memory, or halved; 0: not yet

    def rng(self, what: str) -> random.Random:
        """A fresh generator for every purpose and step, so that there is no generator state to save or to disturb."""
        return random.Random(f"{self.cfg.seed} {self.step} {what}")

    def sets_aside(self, task: Task) -> bool:
        return task.key in self.frozen_keys or tasks.is_heldout(task.key, self.cfg.heldout_fraction)


def train_step(run: Training) -> tuple[list[Row], dict]:
    cfg, clock, buffers = run.cfg, Clock(), run.buffers
    types = [TYPES[name] for name in cfg.types]

    with clock("rollout"):
        # propose: B tasks of every type
        rollout = open_rollout(run)
        proposals = [row for type in types for row in propose(run, type)]
        sample_proposals(run, rollout, proposals)
        solves = [] if cfg.solve_tasks == "this" else ask_from_buffer(run, rollout, run.step - 1)

        # gate; a valid task's probes, and the solver's own answer, are sampled while other proposals still are
        valid, probes = [], []
        for number, row in judged(run, rollout, proposals):
            if row.task and not run.sets_aside(row.task):
                valid.append(row)
                probes += ask(run, rollout, row.task, "probe", f"probe {number}", cfg.n_probes)
                if cfg.solve_tasks == "this":
                    solves += ask(run, rollout, row.task, "solve", f"solve {number}")
        heldout = [row for row in proposals if row.task and row not in valid]
        failed = [row for row in proposals if row.verdict == "infra"]  # not its fault: not trained on
        for row in proposals:
            if row.task:
                buffers.add(row.task, heldout=row in heldout)

        # solve: B tasks of every type, this step's first and the rest from the buffer
        if cfg.solve_tasks == "this":
            solves = ask_from_buffer(run, rollout, run.step, asked=solves)
        for _ in judged(run, rollout, probes + solves):
            pass
        del rollout  # its keys, values and packed weights: the update needs the memory
    if cfg.solve_tasks == "probes":
        solves = probes

    # reward
    proposals = [row for row in proposals if row not in heldout + failed]
    solved = Counter(id(row.task) for row in probes if row.verdict == "correct")
    for row in valid:  # what the executor could not judge counts as unsolved
        row.solve_rate = solved[id(row.task)] / cfg.n_probes
    for row in proposals:
        row.reward = rewards.propose_reward(row.well_formed, row.task is not None, row.solve_rate,
                                            cfg.extreme_reward, cfg.invalid_reward)
    for row in solves:
        row.reward = rewards.solve_reward(row.well_formed, row.verdict == "correct")
    take_control(run, valid, solves)

    with clock("update"):
        learns = cfg.train_propose and cfg.propose_from == "policy"
        rows = (proposals if learns else []) + [row for row in solves if row.verdict != "infra"]
        rewards.set_advantages(rows, cfg.advantage or ("grpo" if cfg.solve_tasks == "probes" else "trr++"), cfg.whitening)
        update_metrics = update(run, rows)

    everything = list(dict.fromkeys(proposals + heldout + failed + probes + solves))
    return everything, step_metrics(run, everything, rows, clock) | update_metrics


def propose(run: Training, type: TaskType, salt: str = "") -> list[Row]:
    """B prompts to propose a task of the type, each with up to K references of its own (paper section 3.3.1)."""
    if run.given is not None:
        return take(run, type)
    rng, rows = run.rng(f"references {type.name} {salt}"), []
    for _ in range(run.cfg.batch_size):
        references = run.buffers.draw_references(type, run.cfg.references, rng)
        prompt = tasks.propose_prompt(run.style, type, references)
        while len(ids := to_ids(run, prompt)) > run.cfg.max_prompt_tokens and len(references) > 1:
            references = references[:-1]  # long references: show fewer
            prompt = tasks.propose_prompt(run.style, type, references)
        if len(ids) > run.cfg.max_prompt_tokens:
            raise UserError(f"a proposal prompt has {len(ids)} tokens, over --max_prompt_tokens"
                            f" {run.cfg.max_prompt_tokens}; allow more")
        reference = references[0] if references else None
        rows.append(Row("propose", "propose", type.name, prompt, ids, None, "", None, reference,
                        references=references))
    return rows


def take(run: Training, type: TaskType) -> list[Row]:
    """In the place of `propose`, with --propose_from FILE: the file's next B tasks of the type, in turn. They are known
    to be valid, so their rows come without a response."""
    given, size = [task for task in run.given if task.type == type.name], run.cfg.batch_size
    chosen = [replace(given[i % len(given)], step=run.step) for i in range((run.step - 1) * size, run.step * size)]
    return [Row("propose", "propose", type.name, "", [], Sample([], [], "given"), "", task, None, True, "given")
            for task in chosen]


def sample_proposals(run: Training, rollout: Rollout, proposals: list[Row]) -> None:
    """As --propose_from says: in the rollout, by the starting model at once, or not at all."""
    if run.cfg.propose_from == "policy":
        for number, row in enumerate(proposals):
            add(rollout, row.prompt_ids, tag=[row], key=f"propose {number}")
    elif run.given is None:
        with starting_policy(run) as policy:
            generate_rows(run, policy, proposals, "start proposes")
        judge(run, proposals)


def generate_rows(run: Training, policy: Policy, rows: list[Row], purpose: str) -> None:
    samples = generate(policy, [row.prompt_ids for row in rows], 1, run.cfg.max_new_tokens, run.cfg.temperature,
                       run.rng(purpose).getrandbits(63), run.cfg.slots, run.kv_gb)
    for row, (found,) in zip(rows, samples):
        row.sample, row.text = found, decode(run.policy, found.ids)


def ask(run: Training, rollout: Rollout, task: Task, kind: str, key: str, n: int = 1) -> list[Row]:
    """n answers to the task, queued. The key fixes their draws, whatever else is going on."""
    prompt = tasks.solve_prompt(run.style, task)
    ids = to_ids(run, prompt)
    rows = [Row("solve", kind, task.type, prompt, ids, None, "", task, None) for _ in range(n)]
    add(rollout, ids, n, tag=rows, key=key)
    return rows


def to_ids(run: Training, prompt: str) -> list[int]:
    return selfplay.to_ids(run.policy, run.style, prompt)


def fits(run: Training, task: Task) -> bool:
    """Whether every prompt that could ever show the task is within --max_prompt_tokens."""
    shown_to = [type for type in TYPES.values() if type.name == task.type
                or type.given_program and TYPES[task.type].gives_programs]
    prompts = [tasks.solve_prompt(run.style, task), *(tasks.propose_prompt(run.style, type, [task]) for type in shown_to)]
    return all(len(to_ids(run, prompt)) <= run.cfg.max_prompt_tokens for prompt in prompts)


def ask_from_buffer(run: Training, rollout: Rollout, newest: int, asked: list[Row] = ()) -> list[Row]:
    """B rows to solve for every type, the tasks of step `newest` first; `asked` are those that are on their way."""
    going, rows = Counter(id(row.task) for row in asked), list(asked)
    for name in run.cfg.types:
        drawn = run.buffers.draw_tasks(TYPES[name], run.cfg.batch_size, newest, run.rng(f"tasks {name}"))
        room = run.cfg.batch_size - sum(row.type == name for row in asked)
        for number, task in enumerate(drawn):
            if going[id(task)]:
                going[id(task)] -= 1
            elif room > 0:  # less where a small buffer has dropped new tasks already
                room -= 1
                rows += ask(run, rollout, task, "solve", f"solve {name} {number}")
    return rows


def open_rollout(run: Training) -> Rollout:
    cfg = run.cfg
    return start_rollout(run.policy, cfg.slots, cfg.max_prompt_tokens + cfg.max_new_tokens, cfg.max_new_tokens,
                         cfg.temperature, run.rng("rollout").getrandbits(63), run.kv_gb)


def judged(run: Training, rollout: Rollout, rows: list[Row]):
    """Decodes until these rows are sampled and judged, and yields (number, row) as they come. The caller may ask for
    more meanwhile, so that no slot waits for the longest response: what ends on the way is judged too. The executor
    is asked once an eighth of the slots has ended, for milliseconds in which nothing is decoded."""
    waiting = {row: number for number, row in enumerate(rows)}
    yield from ((waiting.pop(row), row) for row in rows if row.verdict)
    with tqdm(desc="rollout", unit="tok", leave=False, position=1, disable=None) as bar:
        while waiting:
            ended = []
            while not idle(rollout) and len(ended) * 8 < run.cfg.slots:
                for request, number, sample in advance(rollout):
                    row = request.tag[number]
                    row.sample, row.text = sample, decode(run.policy, sample.ids)
                    ended.append(row)
                bar.update(rollout.made - bar.n)
            judge(run, ended)
            yield from ((waiting.pop(row), row) for row in ended if row in waiting)


def judge(run: Training, rows: list[Row]) -> None:
    proposals, answers = ([row for row in rows if row.role == role] for role in ("propose", "solve"))
    note_gate(run, proposals, tasks.gate([(TYPES[row.type], row.text, row.reference) for row in proposals],
                                         run.executor, run.step, run.cfg.n_inputs))
    for row, verdict in zip(answers, tasks.verify([(row.task, row.text) for row in answers], run.executor)):
        row.well_formed, row.verdict = verdict.well_formed, verdict.reason


def note_gate(run: Training, rows: list[Row], gated: list[Gated]) -> None:
    for row, result in zip(rows, gated):
        row.well_formed = tasks.well_formed(row.text)
        if result.task and not fits(run, result.task):
            result = Gated(None, "prompt too long")
        row.task, row.verdict = result.task, result.reason


def take_control(run: Training, valid: list[Row], solves: list[Row]) -> None:
    """--control: takes from a role what its reward tells, and leaves everything else as it is."""
    rng = run.rng("control")
    if run.cfg.control == "shuffled":
        for name in run.cfg.types:
            mine = [row for row in valid if row.type == name]
            for row, reward in zip(mine, rng.sample([row.reward for row in mine], len(mine))):
                row.reward = reward
    elif run.cfg.control == "random":
        for row in solves:
            row.reward = rewards.solve_reward(row.well_formed, rng.random() < 0.5)


def update(run: Training, rows: list[Row]) -> dict:
    """epochs x minibatches optimizer steps on the rows, and what they showed. Sampler against trainer is measured
    before the first of them, on the rows that are read: later ones train a policy that has moved on."""
    cfg, order, parameters = run.cfg, list(range(len(rows))), run.policy.trained()
    rng, norms, skipped, clipped, tokens, log_ratios = run.rng("minibatches"), [], 0, 0, 0, []
    if not rows:  # solver-only training on the probes of a step without a valid task
        return {"skipped_updates": 1}
    for _ in range(cfg.epochs):
        rng.shuffle(order)
        for start in range(min(cfg.minibatches, len(rows))):
            part = [rows[i] for i in order[start::cfg.minibatches]]
            weights_R = rewards.token_weights(cfg.loss_mean, [(row.type, row.role) for row in part],
                                              [len(row.sample.ids) for row in part], cfg.solve_weight)
            # Without an advantage, as among probes that all succeeded, there is no gradient: no need to compute it.
            live = [i for i, row in enumerate(part) if row.advantage or cfg.kl_coef or cfg.entropy_coef] or [0]
            parts = backward(run, [part[i] for i in live], weights_R[live])
            clipped, tokens = clipped + sum(int(c.sum()) for _, c in parts), tokens + sum(len(c) for _, c in parts)
            if not norms:
                log_ratios = [log_ratio_N for log_ratio_N, _ in parts]
            norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, cfg.grad_clip)))
            if math.isfinite(norms[-1]):
                set_rate(run.optimizer, cfg, run.step)
                run.optimizer.step()
            else:  # one broken batch must not end a run of days
                skipped += 1
            run.optimizer.zero_grad()
    log_ratio_N = torch.cat(log_ratios)
    return {"kl_sampler_trainer": float((torch.expm1(log_ratio_N) - log_ratio_N).mean()),
            "ratio_mean": float(log_ratio_N.exp().mean()), "ratio_max": float(log_ratio_N.exp().max()),
            "clip_frac": clipped / tokens, "grad_norm": sum(norms) / len(norms), "skipped_updates": skipped}


def set_rate(optimizer: torch.optim.Optimizer, cfg: Config, step: int) -> None:
    done = (step - 1) / max(1, cfg.steps - 1)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * (1 + done * (cfg.lr_final - 1))


def backward(run: Training, rows: list[Row], weight_R: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Adds the gradient of the rows' loss, a micro-batch at a time; their (log ratios, clipped). Where memory runs out
    the budget is halved, for the rest of the run, and all is done again: the gradient is the same up to rounding."""
    run.micro_tokens = run.micro_tokens or run.cfg.micro_tokens or free_tokens(run.policy)
    while True:
        parts, micros = [], micro_batches(run, rows, run.micro_tokens)
        try:
            for micro in tqdm(micros, desc="update", unit="batch", leave=False, position=1, disable=None):
                loss, log_ratio_N, clipped_N = micro_loss(run, [rows[i] for i in micro], weight_R[micro])
                loss.backward()
                parts.append((log_ratio_N, clipped_N))
            return parts
        except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU allocator has no class of its own
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            if len(micro) == 1:
                raise torch.OutOfMemoryError(f"one response alone is too long: {error}") from error
        # Here the failed pass, which the exception had held, is free again.
        run.optimizer.zero_grad()
        most = min(run.micro_tokens, padded_tokens(run, [rows[i] for i in micro]))
        run.micro_tokens = most // 2
        if run.policy.device.type == "cuda":
            torch.cuda.empty_cache()
        say(f"note: out of memory in the update; micro-batches of {most:,} tokens are halved")


def free_tokens(policy: Policy) -> int:
    """Tokens of a micro-batch that should fit into the memory that is free now."""
    if policy.device.type == "cuda":
        free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    else:
        line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
        free = 1024 * int(line.split()[1])
    return max(1, min(MOST_MICRO_TOKENS, int(0.6 * free / update_bytes(policy))))


def texts_of(run: Training, rows: list[Row], budget: int = 1 << 60) -> list[tuple[int, list[int]]]:
    """(tokens, row indices) of each text that the update reads: answers to one prompt share it (model.side_by_side)."""
    texts = side_by_side([(row.prompt_ids, row.sample.ids) for row in rows], min(run.policy.share_prompts, budget))
    return [(len(rows[text[0]].prompt_ids) + sum(len(rows[i].sample.ids) for i in text), text) for text in texts]


def padded_tokens(run: Training, rows: list[Row]) -> int:
    texts = texts_of(run, rows)
    return len(texts) * max(tokens for tokens, _ in texts)


def micro_batches(run: Training, rows: list[Row], budget: int) -> list[list[int]]:
    """Row indices in batches of texts of like length, of at most `budget` padded tokens each; the longest first, so
    that a lack of memory shows at once."""
    batches, left = [], sorted(texts_of(run, rows, budget), key=lambda text: -text[0])
    while left:
        count = max(1, budget // left[0][0])
        batches.append([i for _, text in left[:count] for i in text])
        left = left[count:]
    return batches


def micro_loss(run: Training, rows: list[Row],
               weight_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss, log of trainer's over sampler's probability [N], clipped [N]) of some rows."""
    cfg, policy = run.cfg, run.policy
    texts = [(row.prompt_ids, row.sample.ids) for row in rows]
    lengths = torch.tensor([len(row.sample.ids) for row in rows])
    logp_N, entropy_N = logprobs(policy, texts, cfg.temperature)
    old_N = torch.tensor([logp for row in rows for logp in row.sample.logps], device=policy.device)
    adv_N = torch.tensor([row.advantage for row in rows]).repeat_interleave(lengths).to(policy.device)
    weight_N = weight_R.repeat_interleave(lengths).to(policy.device)
    loss, clipped_N = rewards.policy_loss(logp_N, old_N, adv_N, weight_N, cfg.clip_low, cfg.clip_high)
    if cfg.kl_coef:
        with torch.no_grad(), adapter_off(policy):
            reference_N, _ = logprobs(policy, texts, cfg.temperature)
        loss = loss + cfg.kl_coef * (weight_N * rewards.kl_k3(logp_N, reference_N)).sum()
    if cfg.entropy_coef:
        loss = loss - cfg.entropy_coef * (weight_N * entropy_N).sum()
    return loss, (logp_N - old_N).detach(), clipped_N


# ----------------------------------------------------------------------------------------------------------------
# Seeding: from the identity program alone, no learning (paper section 3.3.1 and figure 5)

def seed_buffers(run: Training, log: "Log") -> None:
    """Fills the buffers to B x S tasks each. Deduction and abduction share their seeds; induction asks for inputs to
    them. As in the official code, seeding reads the blocks wherever they stand and does not ask for the think/answer
    format."""
    cfg, target = run.cfg, run.cfg.batch_size * run.cfg.seed_factor
    if cfg.seed_tasks:
        for task in fitting_tasks(run, cfg.seed_tasks):
            run.buffers.add(task, run.sets_aside(task))
    given = {name for name, buffer in run.buffers.train.items() if buffer}
    for type in TYPES.values():
        if type.name not in given:
            run.buffers.add(tasks.identity_task(type, cfg.n_inputs))
    wanted = [type for type in TYPES.values() if type.paper and type.gives_programs or type.name in cfg.types]
    for types in shared_seeds(wanted):
        if not {type.name for type in types} <= given:
            grow(run, log, types, target)
    sizes = {name: len(run.buffers.train[name]) for name in cfg.types}
    few = f" (wanted {target} of each; training goes on with these)" if min(sizes.values()) < target else ""
    say(f"seeded: {', '.join(f'{size} {name}' for name, size in sizes.items())} tasks{few}")


def shared_seeds(types: list[TaskType]) -> list[list[TaskType]]:
    """Types whose valid proposals are the same share their seeds; those that need programs come last."""
    groups = defaultdict(list)
    for type in sorted(types, key=lambda type: type.given_program):
        groups[type.draft, type.outcome].append(type)
    return list(groups.values())


def grow(run: Training, log: "Log", types: list[TaskType], target: int) -> None:
    """Proposes tasks, a type after the other, until each of the types has `target`; new ones count for all of them."""
    cfg, seen = run.cfg, set()

    def have() -> int:
        return min(len(run.buffers.train[type.name]) for type in types)
    for attempt in range(8 * cfg.seed_factor):  # a model that gives one valid task in eight still gets there
        if have() >= target:
            break
        say(f"seeding {' and '.join(type.name for type in types)}: {have()} of {target} tasks")
        rows = propose(run, types[attempt % len(types)], salt=f"seed {attempt}")
        generate_rows(run, run.policy, rows, f"seed {types[0].name} {attempt}")
        note_gate(run, rows, tasks.gate([(TYPES[row.type], row.text, row.reference) for row in rows], run.executor,
                                        run.step, cfg.n_inputs, strict_format=False))
        log.samples(rows, run.step)
        for task in (row.task for row in rows if row.task):
            mark = (task.key, *map(tasks.arguments, task.inputs))
            copies = [replace(task, type=type.name) for type in types]
            if mark not in seen and have() < target and all(fits(run, copy) for copy in copies):
                seen.add(mark)
                for copy in copies:
                    run.buffers.add(copy, run.sets_aside(copy))


# ----------------------------------------------------------------------------------------------------------------
# Metrics and logs

class Clock:
    """Seconds by phase."""
    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str):
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


def mean(values) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


def step_metrics(run: Training, everything: list[Row], trained: list[Row], clock: Clock) -> dict:
    """One flat line of numbers; keys end in /type or /role/type. None means there was nothing to measure."""
    cfg, m = run.cfg, {"step": run.step}
    for type in cfg.types:
        mine = [row for row in everything if row.type == type and row.kind == "propose"]
        valid = [row for row in mine if row.solve_rate is not None]  # and not held out
        m[f"valid/{type}"] = mean(row.task is not None for row in mine)
        for reason, count in Counter(row.verdict for row in mine).items():
            m[f"gate/{type}/{reason}"] = count
        m[f"distinct/{type}"] = len({row.task.key for row in valid}) / len(valid) if valid else None
        m[f"learnability/{type}"] = mean(rewards.learnability(row.solve_rate) for row in valid)
        solved = Counter(round(row.solve_rate * cfg.n_probes) for row in valid)
        m[f"solved_of_{cfg.n_probes}/{type}"] = [solved[k] for k in range(cfg.n_probes + 1)]
        m[f"depth/{type}"] = mean(row.task.depth for row in valid)
        m[f"buffer/{type}"], m[f"heldout/{type}"] = len(run.buffers.train[type]), len(run.buffers.heldout[type])
        m[f"solve_rate/{type}"] = mean(row.verdict == "correct" for row in everything
                                       if row.type == type and row.role == "solve")
        for role in ("propose", "solve"):
            group = [row for row in trained if (row.type, row.role) == (type, role)]
            m[f"reward/{role}/{type}"] = mean(row.reward for row in group)
            m[f"zero_advantage/{role}/{type}"] = mean(abs(row.advantage) < 1e-6 for row in group)
            sampled = [row for row in everything if (row.type, row.role) == (type, role) and row.sample.ids]
            # -log p of what was drawn estimates the sampler's entropy at no cost.
            m[f"entropy/{role}/{type}"] = mean(-mean(row.sample.logps) for row in sampled)
            m[f"length/{role}/{type}"] = mean(len(row.sample.ids) for row in sampled)
            m[f"cut_off/{role}/{type}"] = mean(row.sample.finish == "length" for row in sampled)
            m[f"bad_format/{role}/{type}"] = mean(not row.well_formed for row in sampled)
    m["heldout_proposals"] = sum(row.kind == "propose" and row.task is not None and row.solve_rate is None
                                 for row in everything)
    generated = sum(len(row.sample.ids) for row in everything)
    m["infra_failures"] = sum(row.verdict == "infra" for row in everything)
    m["tokens_generated"], m["tokens_trained"] = generated, sum(len(row.sample.ids) for row in trained)
    m["tokens_per_second"] = generated / clock.seconds["rollout"]
    m |= {f"seconds/{phase}": seconds for phase, seconds in clock.seconds.items()}
    m["peak_memory_gb"] = (torch.cuda.max_memory_allocated() / 2**30 if run.policy.device.type == "cuda" else
                           resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    return m


def step_line(m: dict, cfg: Config) -> str:
    def by_type(key: str) -> str:
        return "/".join("-" if m[f"{key}/{t}"] is None else f"{m[f'{key}/{t}']:.2f}" for t in cfg.types)
    learn = mean(m[f"learnability/{t}"] for t in cfg.types if m[f"learnability/{t}"] is not None)
    lengths = [m[f"length/{role}/{t}"] for role in ("propose", "solve") for t in cfg.types]
    length = mean(value for value in lengths if value is not None)
    seconds = " ".join(f"{key[8:]} {value:.1f}" for key, value in m.items() if key.startswith("seconds/"))
    return (f"step {m['step']:4d} | solve reward {by_type('reward/solve')} | valid {by_type('valid')} | learnability"
            f" {learn or 0:.2f} | length {length or 0:.0f} | {m['tokens_per_second']:,.0f} tok/s | seconds {seconds}")


def warnings_of(m: dict, cfg: Config) -> list[tuple[str, str]]:
    """(key, line) of what a user should know about a step; each key is told once a run."""
    found = []
    for key, value in m.items():
        name = key.split("/", 1)[-1]
        if key.startswith("cut_off/") and (value or 0) > 0.2:
            found.append((key, f"{100 * value:.0f}% of the {name} responses reached --max_new_tokens"
                               f" {cfg.max_new_tokens} and are mostly badly formatted; raise it if this stays"))
        if key.startswith("valid/") and value == 0:
            found.append((key, f"no valid {name} proposal in this step; metrics.jsonl counts why under gate/{name}/"))
    if all(value == 1 for key, value in m.items() if key.startswith("zero_advantage/") and value is not None):
        found.append(("zero", "all rewards within each type and role were equal, so this step's gradient is zero; that"
                              " happens with small batches and early on"))
    if m.get("skipped_updates"):
        found.append(("skipped", "an update was skipped: nothing to train on, or its gradient was not finite"))
    return found


class Log:
    """metrics.jsonl and samples.jsonl. Lines reach the disk before the checkpoint that counts them, and lines that no
    checkpoint counts are cut off on resume: a step is in the files once or not at all."""
    FILES = ("metrics.jsonl", "samples.jsonl")

    def __init__(self, folder: Path, keep_samples: int, sizes: list[int]):
        self.keep_samples, self.mirrors = keep_samples, []  # functions that take a step's metrics
        self.files = [open(folder / name, "a", encoding="utf-8") for name in self.FILES]
        for file, size in zip(self.files, sizes):
            file.truncate(min(size, os.fstat(file.fileno()).st_size))  # a user may have removed a large file
            file.seek(0, os.SEEK_END)

    def metrics(self, metrics: dict) -> None:
        """Numbers that are not finite become null: JSON has no nan."""
        finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value
                  for key, value in metrics.items()}
        self.files[0].write(json.dumps(finite, allow_nan=False) + "\n")
        for mirror in self.mirrors:
            mirror(finite)

    def samples(self, rows: list[Row], step: int) -> None:
        counts = Counter()
        for row in rows:
            counts[row.type, row.kind] += 1
            if 0 <= self.keep_samples < counts[row.type, row.kind]:
                continue
            record = {"step": step, "role": row.role, "kind": row.kind, "type": row.type, "reward": row.reward,
                      "heldout": row.kind == "propose" and row.task is not None and row.solve_rate is None and step > 0,
                      "well_formed": row.well_formed, "verdict": row.verdict, "solve_rate": row.solve_rate,
                      "advantage": row.advantage, "finish": row.sample.finish, "tokens": len(row.sample.ids),
                      "prompt": row.prompt, "text": row.text}
            if row.kind == "propose":
                record["references"] = list(map(tasks.task_id, row.references))
                record |= {"task": tasks.task_to_json(row.task)} if row.task else {}
            else:
                record["task_id"] = tasks.task_id(row.task)
            self.files[1].write(json.dumps(record) + "\n")

    def sync(self) -> list[int]:
        """Forces both files to the disk and returns their sizes."""
        for file in self.files:
            file.flush()
            os.fsync(file.fileno())
        return [file.tell() for file in self.files]


def say(line: str) -> None:
    tqdm.write(line)
    sys.stdout.flush()


# ----------------------------------------------------------------------------------------------------------------
# Checkpoints. A folder is complete or absent: written beside, forced to disk, then renamed; the previous one is kept.

def save_checkpoint(run: Training, sizes: list[int]) -> None:
    new, current, old = (run.folder / name for name in ("checkpoint.new", "checkpoint", "checkpoint.old"))
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        save_policy(run.policy, new / "policy")
        torch.save(run.optimizer.state_dict(), new / "optimizer.pt")
        # No generator states: every draw comes from (seed, step, purpose), see Training.rng.
        state = {"step": run.step, "sizes": sizes, "buffers": run.buffers.to_json()}
        (new / "state.json").write_text(json.dumps(state))
        (new / "checksums.json").write_text(json.dumps(checksums(new)))
        for path in [*new.rglob("*"), new]:
            sync(path)
        if current.exists():
            shutil.rmtree(old, ignore_errors=True)
            current.rename(old)
        new.rename(current)
        sync(run.folder)
    except Exception as error:  # torch and safetensors report a full disk in classes of their own
        before = "the checkpoint before it is whole" if current.exists() or old.exists() else "it is the first one"
        raise UserError(f"cannot write {new} ({str(error).splitlines()[0]}); {before}: make room, then go on with"
                        f" --resume {run.folder}") from error


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def checksums(folder: Path) -> dict[str, str]:
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "checksums.json":
            with open(path, "rb") as file:
                sums[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def damage(folder: Path) -> list[str]:
    """The files of a checkpoint that are not as they were written."""
    try:
        wanted, actual = json.loads((folder / "checksums.json").read_text()), checksums(folder)
        return sorted(name for name in wanted if actual.get(name) != wanted[name])
    except (OSError, ValueError):
        return ["checksums.json"]


def find_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint, verified; None if the run was stopped before its first. Raises UserError if damaged."""
    new, current, old = (folder / name for name in ("checkpoint.new", "checkpoint", "checkpoint.old"))
    if not current.exists() and new.exists() and not damage(new):
        new.rename(current)  # stopped between the two renames of save_checkpoint
    found = next((path for path in (current, old) if path.exists()), None)
    if found and (bad := damage(found)):
        way_on = (f"remove {found} to go on from the one before, {old.name}" if found == current and old.exists() else
                  "there is no older one; start a new run")
        raise UserError(f"{found} is damaged ({', '.join(bad)}); {way_on}")
    return found


# ----------------------------------------------------------------------------------------------------------------
# Starting up

def parse(argv: list[str]) -> tuple[Config, str]:
    """The configuration and the first line to print. Flags win over the resumed run's configuration or the preset."""
    given = {word[2:].split("=")[0].replace("-", "_") for word in argv if word.startswith("--")}
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="train.py", usage="python train.py [--flag value ...]",
                                     description=__doc__.split("\n\n")[0])
    add_flags(parser)

    def complain(message: str):
        raise UserError(f"{message}; python train.py --help lists all flags")
    parser.error = complain
    first, _ = parser.parse_known_args(argv)
    if first.resume:
        return resumed_config(parser, argv, given, Path(first.resume)), f"resuming {first.resume}"
    preset, line = pick_preset(first)
    parser.set_defaults(**PRESETS[preset])
    cfg = Config(**vars(parser.parse_args(argv)))
    cfg.preset = preset
    cfg.device = cfg.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if Path(cfg.model).expanduser().is_dir():  # a run can be resumed from another folder
        cfg.model = str(Path(cfg.model).expanduser().resolve())
    cfg.name = cfg.name or f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    check(cfg)
    return cfg, line


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every field of Config: its type is the reader, a Literal's values are the choices."""
    for f in fields(Config):
        kind = next((kind for kind in get_args(f.type) if kind is not type(None)), f.type)  # of Optional and list too
        choices = get_args(f.type if get_origin(f.type) is Literal else kind) or None
        many = {"nargs": "+"} if get_origin(f.type) is list else {"nargs": "?", "const": True} if kind is bool else {}
        parser.add_argument(f"--{f.name}", *[f"--{f.name.replace('_', '-')}"] * ("_" in f.name), choices=choices,
                            type=str if choices else truth if kind is bool else kind, help=f.metadata.get("help"),
                            default=f.default_factory() if f.default is MISSING else f.default, **many)


def truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


def pick_preset(first) -> tuple[str, str]:
    if first.preset:
        if first.preset not in PRESETS:
            raise UserError(f"--preset {first.preset}: no such preset; choose from {', '.join(PRESETS)}")
        return first.preset, f"preset {first.preset}, as asked"
    on_gpu = torch.cuda.is_available() and first.device != "cpu"
    if not on_gpu:
        preset = "0.5b" if first.model else "nano"
        other = "python train.py --preset 0.5b" if preset == "nano" else "python train.py --preset nano"
        return preset, f"preset {preset} (no CUDA device in use); for the other choice: {other}"
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    preset, other = ("3b", "1.5b") if memory >= 20 else ("1.5b", "nano")
    return preset, (f"preset {preset} ({memory:.0f} GB of CUDA memory); for another choice:"
                    f" python train.py --preset {other}")


def resumed_config(parser, argv: list[str], given: set[str], folder: Path) -> Config:
    try:
        saved = evaluation.read_json((folder / "config.json").read_bytes(), "config.json")
    except (OSError, ValueError) as error:
        raise UserError(f"--resume {folder}: no readable config.json there, so this is not a run folder") from error
    fixed = sorted(given - RUNNING_FLAGS)
    if fixed:
        raise UserError(f"--{fixed[0]} cannot change on --resume, it would be another run; drop it or start a new run")
    unknown = set(saved) - {f.name for f in fields(Config)}
    if unknown:
        raise UserError(f"--resume {folder}: its config.json has {', '.join(sorted(unknown))}, unknown to this version")
    parser.set_defaults(**saved)
    cfg = Config(**vars(parser.parse_args(argv)))
    check(cfg)
    return cfg


def check(cfg: Config) -> None:
    """Values and combinations that cannot work, each with what to do. Written so that nan is refused too."""
    for f in fields(cfg):
        value, least, above = getattr(cfg, f.name), f.metadata.get("least"), f.metadata.get("above")
        if least is not None and not least <= value < math.inf or above is not None and not above < value < math.inf:
            wanted = f"above {above}" if least is None else f"at least {least}" if least else "0 or more"
            raise UserError(f"--{f.name} {value}: must be {wanted}")
    wrong = [type for type in cfg.types if type not in TYPES]
    rules = [
        (not wrong and cfg.types, f"--types {' '.join(wrong)}: choose one or more of {' '.join(TYPES)}"),
        (len(set(cfg.types)) == len(cfg.types), "--types: each type once"),
        (cfg.n_inputs >= 2 and cfg.n_inputs % 2 == 0, f"--n_inputs {cfg.n_inputs}: must be even, half are hidden"),
        (0 <= cfg.heldout_fraction < 1, f"--heldout_fraction {cfg.heldout_fraction}: must be in [0, 1)"),
        (0 < cfg.clip_low <= 1, f"--clip_low {cfg.clip_low}: must be in (0, 1]"),
        (cfg.lora_rank or not cfg.kl_coef,
         "--kl_coef needs the starting model, which --lora_rank 0 overwrites; use LoRA"),
        (cfg.lora_rank or not cfg.load_in_4bit,
         "--load_in_4bit freezes the weights, --lora_rank 0 trains them; drop one"),
        (cfg.advantage != "grpo" or cfg.solve_tasks == "probes",
         "--advantage grpo compares a task's probes with each other; add --solve_tasks probes"),
        (cfg.solve_tasks != "probes" or cfg.n_probes > 1, "--solve_tasks probes compares probes: --n_probes 2 or more"),
        (cfg.control != "shuffled" or cfg.train_propose and cfg.propose_from == "policy",
         "--control shuffled changes what proposers learn, and here they learn nothing; drop one"),
        (cfg.device in ("cpu", "cuda"), f"--device {cfg.device}: choose cpu or cuda"),
        (cfg.device == "cpu" or torch.cuda.is_available(), "--device cuda: there is no CUDA device here"),
        (Path(cfg.name).name == cfg.name, f"--name {cfg.name}: a plain name, the folder is runs/NAME"),
    ]
    for holds, message in rules:
        if not holds:
            raise UserError(message)
    for name in ("seed_tasks", "heldout_tasks", "propose_from"):
        if getattr(cfg, name) not in (None, "policy", "start") and not Path(getattr(cfg, name)).is_file():
            raise UserError(f"--{name} {getattr(cfg, name)}: no such file")


def open_folder(cfg: Config) -> tuple[Path, object]:
    """The run's folder and the lock on it, which lives as long as this process."""
    folder = Path(cfg.resume) if cfg.resume else Path("runs") / cfg.name
    if not cfg.resume:
        if folder.exists():
            raise UserError(f"{folder} exists already; go on with --resume {folder}, or choose another --name")
        folder.mkdir(parents=True)
    lock = open(folder / "lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UserError(f"{folder} is in use by another process; wait for it or stop it") from error
    (folder / "config.json.new").write_text(json.dumps(asdict(cfg) | {"resume": None}, indent=2) + "\n")
    os.replace(folder / "config.json.new", folder / "config.json")
    return folder, lock


def make_optimizer(cfg: Config, policy: Policy) -> torch.optim.Optimizer:
    norms = [p for name, p in policy.model.named_parameters() if p.requires_grad and "norm" in name and cfg.norm_lr]
    others = [p for p in policy.trained() if all(p is not norm for norm in norms)]
    groups = [{"params": part, "lr": lr, "initial_lr": lr, "weight_decay": cfg.weight_decay}
              for part, lr in ((others, cfg.lr), (norms, cfg.norm_lr)) if part]
    if cfg.optim == "adamw":
        return torch.optim.AdamW(groups)
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError("--optim adamw8bit needs the bitsandbytes package: pip install bitsandbytes") from error
    return bitsandbytes.optim.AdamW8bit(groups)


def start(cfg: Config, folder: Path, executor: Executor) -> tuple[Training, Log]:
    """The run as its checkpoint holds it, or an unseeded one at step 0."""
    checkpoint = find_checkpoint(folder)
    say(f"loading {cfg.model}")
    policy = load_policy(cfg.model, cfg.device, cfg.lora_rank, cfg.lora_alpha, cfg.load_in_4bit,
                         checkpoint / "policy" if checkpoint else None, cfg.seed, DTYPES[cfg.dtype], cfg.norm_lr > 0)
    policy.compile = (cfg.device == "cuda" and not cfg.load_in_4bit) if cfg.compile is None else cfg.compile
    policy.checkpoint_layers = cfg.checkpoint_layers
    if cfg.max_prompt_tokens + cfg.max_new_tokens > policy.max_length:
        raise UserError(f"--max_prompt_tokens {cfg.max_prompt_tokens} and --max_new_tokens {cfg.max_new_tokens} exceed"
                        f" the model's {policy.max_length} positions; lower one")
    style = Style(cfg.prompt, cfg.n_inputs, chat_template(policy) if cfg.prompt == "chat" else None)
    run = Training(cfg, folder, policy, make_optimizer(cfg, policy), executor, style, Buffers(cfg.buffer_size))
    run.frozen = read_tasks(cfg.heldout_tasks, executor) if cfg.heldout_tasks else []
    run.works = benchmark_works(cfg, executor) if cfg.eval_every and cfg.eval_tasks else []
    run.frozen_keys = {task.key for task in run.frozen}
    run.given = None if cfg.propose_from in ("policy", "start") else given_tasks(run)
    run.kv_gb = cfg.kv_gb or (torch.cuda.mem_get_info()[0] / 2**31 if cfg.device == "cuda" else 4.0)
    if not checkpoint:
        return run, Log(folder, cfg.keep_samples, [0, 0])
    state = json.loads((checkpoint / "state.json").read_text())
    run.step, run.buffers = state["step"], Buffers.from_json(state["buffers"])
    saved = torch.load(checkpoint / "optimizer.pt", map_location=policy.device, weights_only=True)
    run.optimizer.load_state_dict(saved)
    return run, Log(folder, cfg.keep_samples, state["sizes"])


def fitting_tasks(run: Training, path: str) -> list[Task]:
    """The tasks of a file that the run will show to its model."""
    found = read_tasks(path, run.executor)
    for number, task in enumerate(found, 1):
        if not fits(run, task):
            raise UserError(f"{path}, line {number}: its prompts are longer than --max_prompt_tokens"
                            f" {run.cfg.max_prompt_tokens}; remove it or allow more")
    return found


def given_tasks(run: Training) -> list[Task]:
    path, found = run.cfg.propose_from, fitting_tasks(run, run.cfg.propose_from)
    if missing := set(run.cfg.types) - {task.type for task in found}:
        raise UserError(f"--propose_from {path}: no {sorted(missing)[0]} task in it; add some, or leave the type out"
                        " with --types")
    return found


def evaluate(run: Training, heldout: list[Task], n: int = 1, temperature: float = 0.0) -> "selfplay.Scores":
    return selfplay.score(run.policy, run.executor, run.style, heldout, run.cfg.max_new_tokens, n, temperature,
                            run.cfg.seed, slots=run.cfg.slots, kv_gb=run.kv_gb)


def benchmark_works(cfg: Config, executor: Executor) -> list:
    try:
        return evaluation.prepare(evaluation.names_of(",".join(cfg.eval_tasks)), cfg.eval_data and Path(cfg.eval_data),
                                  executor, Style(cfg.prompt), cfg.eval_limit, note=say)
    except (evaluation.DataError, ValueError) as error:
        raise UserError(f"--eval_tasks: {error}") from error


def evaluations(run: Training) -> dict:
    """What --eval_every asks for, by its names in metrics.jsonl."""
    cfg, found = run.cfg, {}
    heldout = run.frozen[:cfg.eval_limit]
    if heldout:
        found["heldout"] = evaluate(run, heldout).rates()
    if heldout and cfg.eval_samples:
        found["heldout_sampled"] = evaluate(run, heldout, cfg.eval_samples, cfg.temperature).rates()
    if run.works:
        with evaluation.scorer(cfg.workers, cfg.require) as executor:
            found["eval"] = evaluation.rates(run.policy, run.works, "chat" if cfg.prompt == "chat" else "azr", executor,
                                             cfg.max_new_tokens, cfg.slots, run.kv_gb)
    return found


@contextmanager
def starting_policy(run: Training):
    """The model before training: the adapter switched off, or the weights loaded once more where all are trained."""
    if run.cfg.lora_rank:
        with adapter_off(run.policy) as policy:
            yield policy
    else:
        yield load_policy(run.cfg.model, run.cfg.device, lora_rank=0, dtype=DTYPES[run.cfg.dtype])


def before_and_after(run: Training) -> str:
    """Two tables of held-out accuracy: on the file, which other runs share, and on what this run set aside."""
    cfg, text = run.cfg, ""
    with starting_policy(run) as policy:
        start = replace(run, policy=policy)
        own = selfplay.own_heldout(policy, run.executor, run.style, run.buffers, cfg.eval_limit, cfg.max_new_tokens,
                                     cfg.seed, slots=cfg.slots, kv_gb=run.kv_gb)
        sets = {f"Held-out tasks of {cfg.heldout_tasks}": run.frozen[:cfg.eval_limit],
                "Tasks of this run's own held-out programs": own}
        say(f"evaluating on {sum(map(len, sets.values()))} held-out tasks, before and after")
        before = {title: evaluate(start, heldout) for title, heldout in sets.items() if heldout}
    for title in before:
        text += f"{title}:\n\n{selfplay.table(before[title], evaluate(run, sets[title]))}\n"
    return text or "No held-out tasks: give --heldout_tasks, or train longer so that some are set aside.\n"


def read_tasks(path: str, executor: Executor) -> list[Task]:
    try:
        return tasks.load_tasks(path, executor)
    except ValueError as error:
        raise UserError(str(error)) from error


def catch_interrupts() -> list[int]:
    """Ctrl-C raises at once, as ever. Where that hits code whose exceptions Python drops (a destructor), the list that
    this returns still holds the signal, and the loop stops after its step."""
    seen: list[int] = []

    def handler(number: int, frame) -> None:
        seen.append(number)
        raise KeyboardInterrupt
    signal.signal(signal.SIGINT, handler)
    return seen


def main(argv: list[str]) -> None:
    try:
        from report import page as report  # with matplotlib, which nothing else here needs
    except ImportError as error:
        raise UserError(f"a package is missing ({error}); pip install -r requirements.txt") from error
    interrupts = catch_interrupts()
    cfg, first_line = parse(argv)
    say(first_line)
    with Executor(cfg.workers, cfg.cpu_seconds, cfg.memory_mb, cfg.require) as executor, ExitStack() as stack:
        say(f"sandbox: level {executor.level}" + "".join(f"; programs can {leak}" for leak in executor.leaks))
        folder, lock = open_folder(cfg)
        stack.enter_context(lock)
        say(f"run folder {folder}; stop with Ctrl-C, go on with: python train.py --resume {folder}")
        try:
            run, log = start(cfg, folder, executor)
        except (ModelError, UserError):
            if not cfg.resume:  # nothing was made yet: the name stays free
                shutil.rmtree(folder)
            raise
        usual = asdict(Config()) | PRESETS.get(cfg.preset, {})
        for name, noted in (("machine", record.machine(cfg.device)), ("preset", usual)):
            (folder / f"{name}.json").write_text(json.dumps(noted, indent=2) + "\n")
        log.mirrors = record.mirrors(cfg, folder, run.step, say)
        if not any(run.buffers.train.values()):
            seed_buffers(run, log)
            save_checkpoint(run, log.sync())
        if cfg.eval_every and run.step == 0 and (run.frozen or run.works):
            log.metrics({"step": 0} | evaluations(run))
        told: set[str] = set()
        for step in tqdm(range(run.step, cfg.steps), initial=run.step, total=cfg.steps, unit="step", disable=None):
            if interrupts:
                raise KeyboardInterrupt
            run.step = step + 1
            rows, metrics = train_step(run)
            if cfg.eval_every and run.step % cfg.eval_every == 0:
                metrics |= evaluations(run)
            log.metrics(metrics)
            log.samples(rows, run.step)
            sizes = log.sync()
            if cfg.report_every and run.step % cfg.report_every == 0 and run.step < cfg.steps:
                report.of_run(folder, cfg.workers, cfg.require, say)
            if run.step % cfg.save_every == 0 or run.step == cfg.steps:
                save_checkpoint(run, sizes)
            say(step_line(metrics, cfg))
            for key, line in warnings_of(metrics, cfg):
                if key not in told:
                    say(f"note: {line}")
                told.add(key)
        table = before_and_after(run)
        (folder / "heldout.md").write_text(table)
        say(table)
        report.of_run(folder, cfg.workers, cfg.require, say)


def run_main(argv: list[str]) -> int:
    go_on = "what was saved is whole: go on with --resume"
    try:
        main(argv)
    except (UserError, ModelError, ExecutorError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        print("train.py: out of memory; lower --micro_tokens (update), --kv_gb or --slots (generation), or add"
              f" --checkpoint_layers; {go_on} ({str(error).splitlines()[0]})", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"train.py: {error.strerror or error} ({error.filename or 'writing the run folder'}); mend the cause,"
              f" {go_on}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"train.py: stopped; {go_on}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run_main(sys.argv[1:]))

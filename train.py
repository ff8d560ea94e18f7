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
                   (a wrong answer: -0.5; a proposal that the gate refuses, and either role without
                   <think>...</think><answer>...</answer>: -1)
        advantage  TRR++: (reward - mean) / std within each of the 3 types x 2 roles
        update     one step of clipped policy gradient on all 6 B responses

Where we depart from the paper, and why, is a table in the README.

    python train.py                                     # preset by hardware: nano without CUDA, 1.5b or 3b with it
    python train.py --preset nano --steps 20 --name try # every field of config.Config is an option
    python train.py --model ~/models/Qwen2.5-Coder-3B   # a local folder or a hub name
    python train.py --resume runs/try --steps 100       # go on where it stopped
"""
import command
command.starting(__name__)
import math
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from tqdm import tqdm

import cards
import rewards
import runfolder
import tasks
from benchmarks import selfplay
from benchmarks.selfplay import to_ids
from config import Config, UserError, parse, proposer_learns
from executor import Executor
from model import Policy, adapter_off, chat_template, decode, load_policy, logprobs, markers, side_by_side
from runfolder import Clock, Log, say
from sampler import Rollout, Sample, add, advance, generate, idle, start_rollout
from tasks import TYPES, Buffers, Gated, Style, Task, TaskType

DTYPES = {"auto": "auto", "fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(eq=False)
class Row:
    """One response and all that is known of it. Its token ids are those that were sampled; text is for reading only."""
    role: str                # propose or solve
    kind: str                # propose, probe or solve: why it was sampled
    type: str
    prompt: str
    prompt_ids: list[int]
    key: str = ""            # answers: the request that fixes their draws; answers to one request share it
    task: Task | None = None                              # what it solves, or the valid task it proposed
    references: list[Task] = field(default_factory=list)  # propose: what it was shown; for induction one program
    probes: list["Row"] = field(default_factory=list)     # propose: the answers that measure its task
    sample: Sample | None = None
    text: str = ""
    well_formed: bool = False
    verdict: str = ""        # gate reason, or the verdict's reason; empty until it is judged
    why: str = ""            # propose: more about the reason, where there is more
    answer_heldout: bool = False  # answers: a held-out program, which is not trained on
    solve_rate: float | None = None    # propose: of its probes
    learnability: float | None = None  # propose: what that is worth ...
    learnability_whole: float | None = None  # ... and would be without the probes that were cut off
    reward: float | None = None  # None: not rewarded (probes that only measure, held-out proposals, seeding)
    advantage: float = 0.0

    @property
    def cut_off(self) -> bool:
        """Whether an answer failed for its length. What stands behind a right one costs it nothing."""
        return self.sample.finish == "length" and self.verdict != "correct"


@dataclass
class Training:
    """Everything a step needs. What training changes is in `policy`, `optimizer`, `buffers` and `step`: that is what a
    checkpoint holds. What is chosen for the machine (micro_tokens, layers recomputed, LoRA merged) each start chooses
    anew."""
    cfg: Config
    folder: Path
    policy: Policy
    optimizer: torch.optim.Optimizer
    executor: Executor
    style: Style
    buffers: Buffers
    step: int = 0
    seeds: list[Task] = field(default_factory=list)  # the tasks of --seed_tasks
    given: list[Task] | None = None                  # the tasks of --propose_from FILE
    heldout_file: list[Task] = field(default_factory=list)  # the tasks of --heldout_tasks ...
    heldout_keys: set[str] = field(default_factory=set)     # ... whose programs are never trained on
    benchmarks: list = field(default_factory=list)          # what --eval_tasks asks for
    kv_gb: float = 4.0
    micro_tokens: int = 0      # of the update, once free memory or a lack of it has fixed them
    ends: float = math.inf     # of --budget_s, by time.monotonic()
    eval_seconds: float = 0.0  # what the last evaluation took

    def rng(self, what: str) -> random.Random:
        """A fresh generator for every purpose and step, so that there is no state of one to save or to disturb."""
        return random.Random(f"{self.cfg.seed} {self.step} {what}")


# ----------------------------------------------------------------------------------------------------------------
# One training step, in the order of the paper's algorithm 1

def train_step(run: Training) -> tuple[list[Row], dict]:
    """(all rows of the step, its line of metrics)"""
    cfg, clock = run.cfg, Clock()

    with clock("rollout"):
        rollout = open_rollout(run)
        # propose: B tasks of every type
        proposals = [row for name in cfg.types for row in propose(run, TYPES[name])]
        sample_proposals(run, rollout, proposals)
        solves = ask_from_buffer(run, rollout, run.step - 1) if cfg.solve_tasks == "previous" else []

        # gate, probe: a valid task's probes, and the solver's own answer, are sampled while proposals still are
        for row in judged(run, rollout, proposals):
            if row.task and not row.task.heldout:
                number = proposals.index(row)
                row.probes = ask(run, rollout, row.task, "probe", f"probe {number}", cfg.n_probes)
                if cfg.solve_tasks == "this":
                    solves += ask(run, rollout, row.task, "solve", f"solve {number}")
        for row in proposals:
            if row.task:
                run.buffers.add(row.task)

        # solve: B tasks of every type, this step's first and the rest from the buffer
        if cfg.solve_tasks == "this":
            solves = ask_from_buffer(run, rollout, run.step, asked=solves)
        probes = [probe for row in proposals for probe in row.probes]
        if cfg.solve_tasks == "probes":
            solves = probes + probe_from_buffer(run, rollout, proposals)
        for _ in judged(run, rollout, list(dict.fromkeys(probes + solves))):
            pass
        steps = rollout.steps
        del rollout  # its keys, values and packed weights: the update needs the memory (graphs keep theirs)

    # reward: where the executor failed, a proposal gets none, and a probe says nothing
    rewarded = [row for row in proposals if row.verdict != "infra" and not (row.task and row.task.heldout)
                and not (row.task and all(probe.verdict == "infra" for probe in row.probes))]
    for row in rewarded:
        if row.task:
            measured = [probe for probe in row.probes if counts(cfg, probe)]
            row.solve_rate, row.learnability = measure(cfg, measured)
            row.learnability_whole = measure(cfg, [probe for probe in measured if not probe.cut_off])[1]
        row.reward = rewards.propose_reward(row.well_formed, row.learnability, cfg.invalid_reward)
    for row in solves:
        row.reward = rewards.solve_reward(row.well_formed, row.verdict == "correct")
    take_control(run, rewarded, solves)

    # advantage
    answered = [row for row in solves if row.verdict != "infra" and not row.answer_heldout]
    rows = (rewarded if proposer_learns(cfg) else []) + answered
    baseline = cfg.advantage or ("grpo" if cfg.solve_tasks == "probes" else "trr++")
    rewards.set_advantages(rows, baseline, cfg.whitening)

    with clock("update"):
        update_metrics = update(run, rows)

    answers = list(dict.fromkeys(probes + solves))
    run.buffers.note_rates([row for row in answers if counts(cfg, row)])
    everything = proposals + answers
    read = cfg.epochs * [row for row in rows if has_gradient(cfg, row)]
    sampled, trained = ([(row.prompt_ids, row.sample.ids) for row in some] for some in (everything, read))
    return everything, (runfolder.step_metrics(run, everything, rows, clock) | update_metrics
                        | cards.shares(run.policy, clock.seconds, steps, sampled, trained))


def counts(cfg: Config, probe: Row) -> bool:
    """Whether the probe says something of its task."""
    return probe.verdict != "infra" and (cfg.cut_off_probes == "unsolved" or not probe.cut_off)


def measure(cfg: Config, probes: list[Row]) -> tuple[float | None, float]:
    """(solve rate, learnability) of the task that these probes are of; without any it counts as never solved."""
    solved, n = sum(probe.verdict == "correct" for probe in probes), len(probes)
    learnability = rewards.learnability(solved, n, cfg.extreme_reward, cfg.learnability == "graded")
    return solved / n if n else None, learnability


def open_rollout(run: Training) -> Rollout:
    cfg = run.cfg
    return start_rollout(run.policy, cfg.slots, cfg.max_prompt_tokens + cfg.max_new_tokens, cfg.max_new_tokens,
                         cfg.temperature, run.rng("rollout").getrandbits(63), run.kv_gb)


# propose

def propose(run: Training, type: TaskType, salt: str = "") -> list[Row]:
    """B prompts to propose a task of the type, each with up to K references of its own (paper section 3.3.1)."""
    if run.given is not None and run.step > 0:  # seeding asks the model
        return take(run, type)
    rng, rows = run.rng(f"references {type.name} {salt}"), []
    for number in range(run.cfg.batch_size):
        references = run.buffers.draw_references(type, run.cfg.references, rng, run.cfg.references_from)
        prompt = tasks.propose_prompt(run.style, type, references, number)
        while len(ids := to_ids(run.policy, run.style, prompt)) > run.cfg.max_prompt_tokens and len(references) > 1:
            references = references[:-1]  # long references: show fewer
            prompt = tasks.propose_prompt(run.style, type, references, number)
        if len(ids) > run.cfg.max_prompt_tokens:
            raise UserError(f"a proposal prompt has {len(ids)} tokens, over --max_prompt_tokens"
                            f" {run.cfg.max_prompt_tokens}; allow more")
        rows.append(Row("propose", "propose", type.name, prompt, ids, references=references))
    return rows


def take(run: Training, type: TaskType) -> list[Row]:
    """In the place of `propose`, with --propose_from FILE: the file's next B tasks of the type, in turn. They are known
    to be valid, so their rows come without a response."""
    given, size = [task for task in run.given if task.type == type.name], run.cfg.batch_size
    chosen = [replace(given[i % len(given)], step=run.step) for i in range((run.step - 1) * size, run.step * size)]
    return [Row("propose", "propose", type.name, "", [], task=task, sample=Sample([], [], "given"), well_formed=True,
                verdict="given") for task in chosen]


def sample_proposals(run: Training, rollout: Rollout, proposals: list[Row]) -> None:
    """As --propose_from says: in the rollout, by the starting model at once, or not at all."""
    if run.cfg.propose_from == "policy":
        for number, row in enumerate(proposals):
            add(rollout, row.prompt_ids, tag=[row], key=f"propose {number}", stops=run.style.stops)
    elif run.cfg.propose_from == "start":
        with starting_policy(run) as policy:
            generate_rows(run, policy, proposals, "start proposes")
        judge(run, proposals)


def generate_rows(run: Training, policy: Policy, rows: list[Row], purpose: str) -> None:
    samples = generate(policy, [row.prompt_ids for row in rows], 1, run.cfg.max_new_tokens, run.cfg.temperature,
                       run.rng(purpose).getrandbits(63), run.cfg.slots, run.kv_gb, stops=run.style.stops)
    for row, (sample,) in zip(rows, samples):
        row.sample, row.text = sample, decode(run.policy, sample.ids)


@contextmanager
def starting_policy(run: Training):
    """The model before training: the adapter switched off, or the weights loaded once more where all are trained."""
    if run.cfg.lora_rank:
        with adapter_off(run.policy) as policy:
            yield policy
    else:
        yield load_policy(run.cfg.model, run.cfg.device, lora_rank=0, dtype=DTYPES[run.cfg.dtype], probed=False)


# gate, probe, solve

def judged(run: Training, rollout: Rollout, rows: list[Row]):
    """Decodes until these rows are sampled and judged, and yields them as they come. The caller may ask for more
    meanwhile, so that no slot waits for the longest response; what ends on the way is judged too. The executor is
    asked once an eighth of the slots has ended, for milliseconds in which nothing is decoded."""
    yield from (row for row in rows if row.verdict)
    waiting = {row for row in rows if not row.verdict}
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
            yield from (row for row in ended if row in waiting)
            waiting -= set(ended)


def judge(run: Training, rows: list[Row]) -> None:
    """Gives proposals their task or the reason why they have none, and answers their verdict."""
    proposals, answers = ([row for row in rows if row.role == role] for role in ("propose", "solve"))
    note_gate(run, proposals)
    for row, verdict in zip(answers, tasks.verify([(row.task, row.text) for row in answers], run.executor)):
        row.well_formed, row.verdict = verdict.well_formed, verdict.reason
        row.answer_heldout = bool(verdict.key) and is_heldout(run, verdict.key)


def note_gate(run: Training, rows: list[Row], strict_format: bool = True) -> None:
    proposals = [(TYPES[row.type], row.text, next(iter(row.references), None)) for row in rows]
    gated = tasks.gate(proposals, run.executor, run.step, run.cfg.n_inputs, strict_format, run.style.markers)
    for row, result in zip(rows, gated):
        row.well_formed = tasks.well_formed(row.text)
        if result.task and not fits(run, result.task):
            result = Gated(None, "prompt too long")
        elif result.task and run.cfg.refuse_copies and is_copy(row, result.task):
            result = Gated(None, "copy")
        row.task, row.verdict, row.why = result.task and mark_heldout(run, result.task), result.reason, result.why


def is_copy(row: Row, task: Task) -> bool:
    """Whether the proposer wrote a program that its prompt showed it, up to layout and names."""
    shown = {reference.key for reference in row.references} | tasks.EXAMPLE_KEYS
    return not TYPES[row.type].given_program and task.key in shown


def mark_heldout(run: Training, task: Task) -> Task:
    """The task, marked if its program is one of those that are kept for evaluation."""
    return replace(task, heldout=is_heldout(run, task.key))


def is_heldout(run: Training, key: str) -> bool:
    return key in run.heldout_keys or tasks.is_heldout(key, run.cfg.heldout_fraction)


def fits(run: Training, task: Task) -> bool:
    """Whether every prompt that could ever show the task is within --max_prompt_tokens, and without special tokens."""
    shown_to = [type for type in TYPES.values() if type.name == task.type
                or type.given_program and TYPES[task.type].gives_programs]
    prompts = [tasks.solve_prompt(run.style, task)]
    prompts += [tasks.propose_prompt(run.style, type, [task], which) for type in shown_to
                for which in range(len(tasks.PROPOSALS) if run.style.example else 1)]
    return not tasks.holds(task, run.style.markers) and \
        all(len(to_ids(run.policy, run.style, prompt)) <= run.cfg.max_prompt_tokens for prompt in prompts)


def ask(run: Training, rollout: Rollout, task: Task, kind: str, key: str, n: int = 1) -> list[Row]:
    """n answers to the task, queued. The key fixes their draws, whatever else is going on."""
    prompt = tasks.solve_prompt(run.style, task)
    ids = to_ids(run.policy, run.style, prompt)
    rows = [Row("solve", kind, task.type, prompt, ids, key, task) for _ in range(n)]
    add(rollout, ids, n, tag=rows, key=key, stops=run.style.stops)
    return rows


def ask_from_buffer(run: Training, rollout: Rollout, newest: int, asked: list[Row] = ()) -> list[Row]:
    """B rows to solve for every type, the tasks of step `newest` first; `asked` are those that are on their way."""
    going, rows = Counter(row.task.id for row in asked), list(asked)
    for name in run.cfg.types:
        drawn = run.buffers.draw_tasks(TYPES[name], run.cfg.batch_size, newest, run.rng(f"tasks {name}"))
        room = run.cfg.batch_size - sum(row.type == name for row in asked)
        for number, task in enumerate(drawn):
            if going[task.id]:
                going[task.id] -= 1
            elif room > 0:  # less where a small buffer has dropped new tasks already
                room -= 1
                rows += ask(run, rollout, task, "solve", f"solve {name} {number}")
    return rows


def probe_from_buffer(run: Training, rollout: Rollout, proposals: list[Row]) -> list[Row]:
    """n answers to earlier tasks, to as many as B valid proposals of a type are short: with --solve_tasks probes the
    solver learns while the proposer fails."""
    rows = []
    for name in run.cfg.types:
        rng, earlier = run.rng(f"more {name}"), [task for task in run.buffers.train[name] if task.step < run.step]
        lacking = run.cfg.batch_size - sum(row.type == name and bool(row.probes) for row in proposals)
        for number, task in enumerate(rng.sample(earlier, min(lacking, len(earlier)))):
            rows += ask(run, rollout, task, "solve", f"more {name} {number}", run.cfg.n_probes)
    return rows


# reward, update

def take_control(run: Training, proposals: list[Row], solves: list[Row]) -> None:
    """--control: takes from a role what its reward tells, and leaves everything else as it is."""
    rng = run.rng("control")
    if run.cfg.control == "shuffled":
        for name in run.cfg.types:
            valid = [row for row in proposals if row.type == name and row.task]
            for row, reward in zip(valid, rng.sample([row.reward for row in valid], len(valid))):
                row.reward = reward
    elif run.cfg.control == "random":
        for row in solves:
            row.reward = rewards.solve_reward(row.well_formed, rng.random() < 0.5)
    elif run.cfg.control == "form":
        for row in proposals + solves:
            row.reward = rewards.solve_reward(row.well_formed, row.well_formed)


def update(run: Training, rows: list[Row]) -> dict:
    """epochs x minibatches optimizer steps on the rows, and what they showed. Sampler against trainer is measured
    before the first of them, on the rows that are read: later ones train a policy that has moved on."""
    cfg, order, rng = run.cfg, list(range(len(rows))), run.rng("minibatches")
    passes, norms, skipped = [], [], 0
    if not rows:  # solver-only training on the probes of a step without a valid task
        return {"skipped_updates": 1}
    for _ in range(cfg.epochs):
        rng.shuffle(order)
        for start in range(min(cfg.minibatches, len(rows))):
            batch = [rows[i] for i in order[start::cfg.minibatches]]
            weights_R = rewards.token_weights(cfg.loss_mean, [(row.type, row.role) for row in batch],
                                              [len(row.sample.ids) for row in batch], cfg.solve_weight)
            # The step is made even where no row has an advantage: Adam's momentum goes on, as in the official code.
            read = [i for i, row in enumerate(batch) if has_gradient(cfg, row)] or [0]
            passes.append(backward(run, [batch[i] for i in read], weights_R[read]))
            norms.append(float(torch.nn.utils.clip_grad_norm_(run.policy.trained(), cfg.grad_clip)))
            if math.isfinite(norms[-1]):
                set_rate(run.optimizer, cfg, run.step)
                run.optimizer.step()
                refuse_infinite(run, "weights", torch.stack([weight.detach().sum() for weight in run.policy.trained()]))
            else:  # one broken batch must not end a run of days
                skipped += 1
            run.optimizer.zero_grad()
    log_ratio_N, clipped_N = passes[0][0], torch.cat([clipped_N for _, clipped_N in passes])
    return {"kl_sampler_trainer": float((torch.expm1(log_ratio_N) - log_ratio_N).mean()),
            "ratio_mean": float(log_ratio_N.exp().mean()), "ratio_max": float(log_ratio_N.exp().max()),
            "clip_frac": float(clipped_N.float().mean()), "grad_norm": sum(norms) / len(norms),
            "skipped_updates": skipped}


def has_gradient(cfg: Config, row: Row) -> bool:
    """Without an advantage, as among probes that all succeeded, there is no gradient: no need to compute it."""
    return bool(row.advantage or cfg.kl_coef or cfg.entropy_coef)


def set_rate(optimizer: torch.optim.Optimizer, cfg: Config, step: int) -> None:
    done = (step - 1) / max(1, cfg.steps - 1)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * (1 + done * (cfg.lr_final - 1))


def backward(run: Training, rows: list[Row], weight_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Adds the gradient of the rows' loss, a micro-batch at a time; (log ratio, clipped) of every token that was read.
    Where memory runs out layers are recomputed, or else the budget is halved, for the rest of the run, and all is done
    again: the gradient is the same up to rounding."""
    if not run.micro_tokens:
        plan_update(run)
    while True:
        told, micros = [], micro_batches(run, rows, run.micro_tokens)
        try:
            for tokens, micro in tqdm(micros, desc="update", unit="batch", leave=False, position=1, disable=None):
                loss, log_ratio_N, clipped_N = micro_loss(run, [rows[i] for i in micro], weight_R[micro])
                loss.backward()
                told.append((log_ratio_N, clipped_N))
            log_ratio_N, clipped_N = map(torch.cat, zip(*told))
            refuse_infinite(run, "log-probs", log_ratio_N)
            return log_ratio_N, clipped_N
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not command.is_memory(error):
                raise
            keeps = run.cfg.checkpoint_layers is None and not run.policy.checkpoint_layers
            if len(micro) == 1 and not keeps:
                raise torch.OutOfMemoryError(f"one response alone is too long: {error}") from error
        # Here the failed pass, which the exception had held, is free again.
        run.optimizer.zero_grad()
        most = min(run.micro_tokens, tokens)
        if keeps:
            run.policy.checkpoint_layers = True
        else:
            run.micro_tokens = most // 2
        run.policy.device_memory = None  # the sampler's keys and values on CUDA: the next rollout makes them anew
        torch.cuda.empty_cache()
        say("note: out of memory in the update; " + ("layers are recomputed from here on" if keeps else
                                                     f"micro-batches of {most:,} tokens are halved"))


def plan_update(run: Training) -> None:
    """What --checkpoint_layers and --micro_tokens leave open, by the memory that is free at the first update."""
    cfg, policy = run.cfg, run.policy
    policy.checkpoint_layers, run.micro_tokens = cards.plan_update(policy, cfg.checkpoint_layers, cfg.micro_tokens)
    if cfg.checkpoint_layers is None and (cfg.device == "cuda" or policy.checkpoint_layers):
        say(f"update: layers are {'recomputed' if policy.checkpoint_layers else 'kept'} for the backward pass, in"
            f" micro-batches of {run.micro_tokens:,} tokens, with {cards.free_bytes(policy) / 2**30:.1f} GB free"
            " (--checkpoint_layers)")


def refuse_infinite(run: Training, what: str, values: torch.Tensor) -> None:
    if not torch.isfinite(values).all():
        raise UserError(f"step {run.step}: {what} in the update are not finite (nan or inf), and nothing of it was"
                        " saved; the weights have run away: a new run with a lower --lr may hold")


def micro_batches(run: Training, rows: list[Row], budget: int) -> list[tuple[int, list[int]]]:
    """(padded tokens, row indices) of batches of texts of like length, `budget` tokens at most; the longest first, so
    that a lack of memory shows at once. Answers to one prompt share a text (model.side_by_side)."""
    texts = side_by_side([(row.prompt_ids, row.sample.ids) for row in rows], min(run.policy.share_prompts, budget))
    lengths = [len(rows[text[0]].prompt_ids) + sum(len(rows[i].sample.ids) for i in text) for text in texts]
    left, batches = sorted(zip(lengths, texts), key=lambda sized: -sized[0]), []
    while left:
        longest, _ = left[0]
        count = max(1, budget // longest)
        taken, left = left[:count], left[count:]
        batches.append((longest * len(taken), [i for _, text in taken for i in text]))
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

def seed_buffers(run: Training, log: Log) -> None:
    """Fills the buffers to B x S tasks each. Deduction and abduction share their seeds; induction asks for inputs to
    them. As in the official code, seeding reads the blocks wherever they stand and does not ask for the think/answer
    format."""
    cfg, target = run.cfg, run.cfg.batch_size * run.cfg.seed_factor
    for task in run.seeds:
        run.buffers.add(replace(task, step=0))
    given = {name for name, buffer in run.buffers.train.items() if buffer}
    wanted = [type for type in TYPES.values() if type.paper and type.gives_programs or type.name in cfg.types]
    for type in wanted:
        if type.name not in given:
            run.buffers.add(tasks.identity_task(type, cfg.n_inputs))
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
        groups[type.draft, type.observe].append(type)
    return list(groups.values())


def grow(run: Training, log: Log, types: list[TaskType], target: int) -> None:
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
        note_gate(run, rows, strict_format=False)
        log.samples(rows, run.step)
        for task in (row.task for row in rows if row.task):
            mark = (task.key, *map(tasks.arguments, task.inputs))
            copies = [replace(task, type=type.name) for type in types]
            if mark not in seen and have() < target and all(fits(run, copy) for copy in copies):
                seen.add(mark)
                for copy in copies:
                    run.buffers.add(copy)


# ----------------------------------------------------------------------------------------------------------------
# Starting up

def make_optimizer(cfg: Config, policy: Policy) -> torch.optim.Optimizer:
    norms = [p for name, p in policy.model.named_parameters() if p.requires_grad and "norm" in name and cfg.norm_lr]
    others = [p for p in policy.trained() if all(p is not norm for norm in norms)]
    groups = [{"params": params, "lr": lr, "initial_lr": lr, "weight_decay": 0.0}
              for params, lr in ((others, cfg.lr), (norms, cfg.norm_lr)) if params]
    if cfg.optim == "adamw":
        return torch.optim.AdamW(groups)
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError("--optim adamw8bit needs the bitsandbytes package: pip install bitsandbytes") from error
    return bitsandbytes.optim.AdamW8bit(groups)


def make_style(cfg: Config, policy: Policy) -> Style:
    wrap = chat_template(policy) if cfg.prompt == "chat" else None
    return Style(cfg.prompt, cfg.n_inputs, wrap, cfg.example, ("</answer>",) if cfg.stop_at_answer else (),
                 markers(policy, wrap))


def start(cfg: Config, folder: Path, executor: Executor) -> tuple[Training, Log]:
    """The run as its checkpoint holds it, or an unseeded one at step 0."""
    checkpoint = runfolder.find_checkpoint(folder)
    say(f"loading {cfg.model}")
    policy = load_policy(cfg.model, cfg.device, cfg.lora_rank, cfg.lora_alpha, cfg.load_in_4bit,
                         checkpoint / "policy" if checkpoint else None, cfg.seed, DTYPES[cfg.dtype], cfg.norm_lr > 0,
                         cfg.probe)
    policy.compile = (cfg.device == "cuda" and not cfg.load_in_4bit) if cfg.compile is None else cfg.compile
    policy.flex, policy.merge = cfg.flex, cfg.merge
    if cfg.device == "cuda" and cfg.lora_rank and not cfg.load_in_4bit and cfg.merge is None:
        policy.merge = cards.merging_pays(policy)
        say(f"sampling with LoRA {'merged into a copy of the weights' if policy.merge else 'beside the weights'}"
            " (--merge)")
    if cfg.debug_compile:
        torch._dynamo.config.fail_on_recompile_limit_hit = True
    if cfg.max_prompt_tokens + cfg.max_new_tokens > policy.max_length:
        raise UserError(f"--max_prompt_tokens {cfg.max_prompt_tokens} and --max_new_tokens {cfg.max_new_tokens} exceed"
                        f" the model's {policy.max_length} positions; lower one")
    run = Training(cfg, folder, policy, make_optimizer(cfg, policy), executor, make_style(cfg, policy),
                   Buffers(cfg.buffer_size))
    run.heldout_file = read_tasks(run, cfg.heldout_tasks, cfg.eval_limit) if cfg.heldout_tasks else []
    run.heldout_keys = {task.key for task in run.heldout_file}
    run.benchmarks = selfplay.benchmarks_of(cfg, executor, say) if cfg.eval_every and cfg.eval_tasks else []
    run.given = None if cfg.propose_from in ("policy", "start") else given_tasks(run)
    run.kv_gb = cfg.kv_gb or (torch.cuda.mem_get_info()[0] / 2**31 if cfg.device == "cuda" else 4.0)
    sizes = [0] * len(Log.FILES)
    if checkpoint:
        run.step, sizes, run.buffers = runfolder.load_checkpoint(checkpoint, run.optimizer, policy.device)
        run.buffers.hold_out(run.heldout_keys)  # --heldout_tasks may be another file by now
    elif cfg.seed_tasks:
        run.seeds = fitting_tasks(run, runfolder.file_of(cfg, folder, "seed_tasks"))
        if all(task.heldout for task in run.seeds):
            raise UserError(f"--seed_tasks {cfg.seed_tasks}: all of its programs are held out; give others, or set"
                            " --heldout_fraction and --heldout_tasks accordingly")
    return run, Log(folder, cfg.keep_samples, sizes)


def read_tasks(run: Training, path: str, limit: int | None = None) -> list[Task]:
    """The tasks of a file; UserError names rows, of the first `limit`, that the gate refuses."""
    try:
        found = tasks.load_tasks(path, run.executor, run.style.markers)
        tasks.refuse_faults(path, found[:limit], run.executor)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file, and the run needs it: put it back, or give others to evaluate on with"
                        " --heldout_tasks") from error
    except ValueError as error:
        raise UserError(str(error)) from error
    if not found:
        raise UserError(f"{path}: no tasks in it")
    return found


def fitting_tasks(run: Training, path: str) -> list[Task]:
    """The tasks of a file that the run will show to its model."""
    given = [mark_heldout(run, task) for task in read_tasks(run, path)]
    if aside := sum(task.heldout for task in given):
        say(f"note: {aside} of {len(given)} tasks of {path} are of held-out programs and not trained on")
    for number, task in enumerate(given, 1):
        if not fits(run, task):
            raise UserError(f"{path}, line {number}: its prompts are longer than --max_prompt_tokens"
                            f" {run.cfg.max_prompt_tokens}; remove it or allow more")
    return given


def given_tasks(run: Training) -> list[Task]:
    """Of --propose_from FILE, those that are trained on."""
    path, found = run.cfg.propose_from, fitting_tasks(run, runfolder.file_of(run.cfg, run.folder, "propose_from"))
    given = [task for task in found if not task.heldout]
    if missing := set(run.cfg.types) - {task.type for task in given}:
        raise UserError(f"--propose_from {path}: no {sorted(missing)[0]} task in it to train on; add some, or leave the"
                        " type out with --types")
    return given


# ----------------------------------------------------------------------------------------------------------------
# The run

def write_report(run: Training) -> None:
    try:
        from report import page  # with matplotlib, which nothing else here needs
    except ImportError as error:
        say(f"note: no report, a package is missing ({error}): pip install -r requirements.txt, then python -m report"
            f" {run.folder}")
    else:
        page.of_run(run.folder, run.cfg.workers, run.cfg.require, say)


def main(argv: list[str]) -> None:
    interrupts, begun = catch_interrupts(), time.monotonic()
    cfg, first_line = parse(argv)
    say(first_line)
    with (Executor(cfg.workers, cfg.cpu_seconds, cfg.memory_mb, cfg.require, seed=cfg.seed) as executor,
          ExitStack() as stack):
        executor.tell = runfolder.WaitLine()
        say(f"sandbox: level {executor.level}" + "".join(f"; programs can {leak}" for leak in executor.leaks))
        earlier = (Path(cfg.resume) / "config.json").read_text() if cfg.resume else ""
        folder, lock = runfolder.open_folder(cfg)
        stack.enter_context(lock)
        if cfg.resume and runfolder.finished(cfg, folder):
            say(f"{runfolder.find_checkpoint(folder).parent} has ended, and its results stay as they are: heldout.md,"
                " report.html. More --steps go on; to measure it anew, remove heldout.md")
            return
        say(f"run folder {folder}; stop with Ctrl-C, go on with: python train.py --resume {folder}")
        run = None
        try:
            run, log = start(cfg, folder, executor)
            go_on(run, log, interrupts, begun)
        except BaseException as error:
            if not cfg.resume:
                runfolder.remove_if_empty(folder)
            elif not run:  # --model or --heldout_tasks may have been wrong
                runfolder.write_file(folder / "config.json", earlier)
            if run or not isinstance(error, UserError):  # else the same command would fail again
                error.add_note(runfolder.way_on(folder))
            if command.is_memory(error):
                error.add_note("lower --micro_tokens (update), --kv_gb or --slots (generation), or add"
                               " --checkpoint_layers")
            raise


def go_on(run: Training, log: Log, interrupts: list[int], begun: float) -> None:
    """Seeding, the steps, the tables: whatever of them is left."""
    cfg, folder = run.cfg, run.folder
    log.mirrors = runfolder.mirrors(cfg, folder, run.step)
    run.ends = begun + cfg.budget_s if cfg.budget_s else math.inf
    runfolder.set_table_aside(folder)
    if not any(run.buffers.train.values()):
        seed_buffers(run, log)
        runfolder.save_checkpoint(run, log.sync())
    if cfg.eval_every and run.step == 0 and (run.heldout_file or run.benchmarks):
        log.metrics({"step": 0} | selfplay.evaluations(run, log))
    train(run, log, interrupts)
    table = selfplay.before_and_after(run, starting_policy(run), say)
    runfolder.write_file(folder / "heldout.md", table)
    say(table)
    write_report(run)


def train(run: Training, log: Log, interrupts: list[int]) -> None:
    """The steps that are left."""
    cfg, told = run.cfg, set()
    made = runfolder.tokens_made(run.folder)
    for step in tqdm(range(run.step, cfg.steps), initial=run.step, total=cfg.steps, unit="step", disable=None):
        if interrupts:
            raise KeyboardInterrupt
        if 0 < cfg.budget_tokens <= made:  # on --resume
            break
        run.step, begun = step + 1, time.monotonic()
        rows, metrics = train_step(run)
        made, now = made + metrics["tokens_generated"], time.monotonic()
        last = (run.step == cfg.steps or 0 < cfg.budget_tokens <= made
                or 2 * now - begun + run.eval_seconds > run.ends)  # another step would be too late
        if cfg.eval_every and (run.step % cfg.eval_every == 0 or last):
            metrics |= selfplay.evaluations(run, log)
        log.metrics(metrics)
        log.samples(rows, run.step)
        sizes = log.sync()
        if cfg.report_every and run.step % cfg.report_every == 0 and run.step < cfg.steps:
            write_report(run)
        if run.step % cfg.save_every == 0 or last:
            runfolder.save_checkpoint(run, sizes)
        say(runfolder.step_line(metrics, cfg))
        unmerged = stop_merging(run, metrics)
        if cfg.debug_compile and "grad_norm" in metrics and not unmerged:
            forbid_compilation(run, rows)
        for key, line in runfolder.step_warnings(metrics, cfg, runfolder.first_lengths(run.folder)):
            if key not in told:
                say(f"note: {line}")
            told.add(key)
        if last:
            break


def stop_merging(run: Training, metrics: dict) -> bool:
    """Whether LoRA, merged by our own choice, has moved the sampler too far from the trainer in this step."""
    cfg, kl = run.cfg, metrics.get("kl_sampler_trainer", 0.0)
    if cfg.merge is not None or not run.policy.merge or kl < cards.MERGE_KL:
        return False
    run.policy.merge, run.policy.device_memory = False, None
    torch._dynamo.config.error_on_recompile = False  # of --debug_compile: the next step compiles
    say(f"note: sampler and trainer are {kl:.1e} apart with LoRA merged; from here on it is sampled beside the weights")
    return True


def forbid_compilation(run: Training, rows: list[Row]) -> None:
    """--debug_compile: from here on a compilation raises. Sampling without the adapter, which the first step may lack,
    comes first."""
    if not torch._dynamo.config.error_on_recompile and run.cfg.lora_rank:
        prompts = [row.prompt_ids for row in rows if row.prompt_ids][:2]
        with adapter_off(run.policy) as policy:
            generate(policy, prompts, 2, 2, run.cfg.temperature, kv_gb=run.kv_gb)
    torch._dynamo.config.error_on_recompile = True


def catch_interrupts() -> list[int]:
    """Ctrl-C raises at once, as ever. Where that hits code whose exceptions Python drops (a destructor), the list that
    this returns still holds the signal, and the loop stops after its step."""
    seen: list[int] = []

    def handler(number: int, frame) -> None:
        seen.append(number)
        raise KeyboardInterrupt
    signal.signal(signal.SIGINT, handler)
    return seen


def run_main(argv: list[str]) -> int:
    return command.run("train.py", main, argv)


if __name__ == "__main__":
    sys.exit(run_main(sys.argv[1:]))

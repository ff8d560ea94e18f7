"""The training loop from outside (runs, resumes, error lines) and at its seams (what is sampled is what is trained)."""
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sandbox import parsing
import rewards
import tasks
import train
from model import Sample, load_policy
from train import Config, Row, Training, check, micro_loss, parse, train_step, update

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--preset", "nano", "--device", "cpu", "--batch_size", "3", "--n_probes", "3", "--seed_factor", "1",
        "--max_new_tokens", "100", "--workers", "1", "--eval_limit", "6", "--solve_tasks", "this"]


def run_train(folder: Path, *flags: str, limit_bytes: int | None = None, **options) -> subprocess.CompletedProcess:
    """`python train.py` in `folder`, offline and on one thread, as a user would start it."""
    def limit():
        if limit_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, str(ROOT / "train.py"), *flags], cwd=folder, env=env, text=True,
                          capture_output=True, timeout=300, preexec_fn=limit, **options)


def config(**changes) -> Config:
    return replace(parse(TINY)[0], **changes)


@pytest.fixture(scope="module")
def policy():
    return load_policy(str(ROOT / "nano"), lora_rank=4)


@pytest.fixture
def run(policy, executor, tmp_path):
    """A fresh run of nano with a few known tasks in its buffers."""
    torch.manual_seed(0)
    for name, parameter in policy.model.named_parameters():
        if "lora_A" in name:
            torch.nn.init.normal_(parameter, std=0.1)
        elif "lora_B" in name:
            torch.nn.init.zeros_(parameter)
    cfg = config(lora_rank=4, lr=1e-3)
    buffers = tasks.Buffers(cfg.buffer_size)
    for k in range(8):
        program = f"def f(x):\n    x = x + {k}\n    return x"
        for type in tasks.TYPES.values():
            inputs = tuple((i,) for i in range(6 if type.given_program else 1))
            buffers.add(tasks.Task(type.name, program, inputs, tuple(i[0] + k for i in inputs), "1 steps", 0,
                                   parsing.program_key(program), depth=1))
    return Training(cfg, tmp_path, policy, train.make_optimizer(cfg, policy), executor, tasks.Style("compact", 6), buffers, 1)


def weights(run: Training) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in run.policy.trained()]


def sampled_rows(run: Training, count: int = 6) -> list[Row]:
    """Real samples of both roles, no rewards yet."""
    rows, rollout = train.propose(run, tasks.DEDUCTION)[:count // 2], train.open_rollout(run)
    train.sample_proposals(run, rollout, rows)
    for number, task in enumerate(run.buffers.train["deduction"][:count - len(rows)]):
        rows += train.ask(run, rollout, task, "solve", str(number))
    assert sorted(number for number, _ in train.judged(run, rollout, rows)) == list(range(count))
    return rows


# ---- seams ------------------------------------------------------------------------------------------------------

def test_sampled_tokens_are_the_trained_tokens(run, monkeypatch):
    """Every row of the update is a response as it was sampled: same ids, same log-probs, none re-tokenised."""
    sampled, trained = set(), []
    original_advance, original_logprobs = train.advance, train.logprobs

    def advance(rollout):
        result = original_advance(rollout)
        sampled.update((tuple(request.prompt), tuple(sample.ids)) for request, _, sample in result)
        return result

    def logprobs(policy, rows, temperature):
        trained.extend((tuple(prompt), tuple(response)) for prompt, response in rows)
        return original_logprobs(policy, rows, temperature)
    monkeypatch.setattr(train, "advance", advance)
    monkeypatch.setattr(train, "logprobs", logprobs)
    run.cfg.entropy_coef = 1e-9  # rows without an advantage are read too
    rows, _ = train_step(run)
    assert len(trained) == sum(row.kind in ("propose", "solve") for row in rows) - run_heldout(rows, run)
    assert set(trained) <= sampled


def told(rows: list[Row]) -> list[tuple]:
    return [(row.kind, row.type, row.prompt, row.sample.ids, row.verdict, row.reward, row.solve_rate) for row in rows]


def test_when_rows_are_judged_changes_nothing(run, policy, executor):
    """Probes that are sampled while other proposals are, and after all of them, are the same probes."""
    state = run.buffers.to_json()

    def step(slots: int):
        again = replace(run, cfg=replace(run.cfg, slots=slots), buffers=tasks.Buffers.from_json(state))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "update", lambda run, rows: {})
            rows, _ = train_step(again)
        return sorted(map(str, told(rows))), again.buffers.to_json()
    assert step(8) == step(16) == step(1000)


@pytest.mark.parametrize("changes", [dict(solve_tasks="previous"), dict(solve_tasks="probes"),
                                     dict(types=["deduction"]), dict(types=["induction"])], ids=str)
def test_every_task_is_probed_and_solved(run, changes):
    run.cfg = replace(run.cfg, **changes)
    rows, _ = train_step(run)
    of = {kind: [row for row in rows if row.kind == kind] for kind in ("propose", "probe", "solve")}
    valid = [row for row in of["propose"] if row.solve_rate is not None]
    assert Counter(id(row.task) for row in of["probe"]) == {id(row.task): run.cfg.n_probes for row in valid}
    if run.cfg.solve_tasks != "probes":
        assert len(of["solve"]) == run.cfg.batch_size * len(run.cfg.types)
        solved = {id(row.task) for row in of["solve"]}
        new = {id(row.task) for row in valid}
        assert new <= solved if run.cfg.solve_tasks == "this" else not new & solved
    assert all(row.verdict for row in rows)


def run_heldout(rows: list[Row], run: Training) -> int:
    return sum(row.kind == "propose" and row.task is not None and
               tasks.is_heldout(row.task.key, run.cfg.heldout_fraction) for row in rows)


def test_one_epoch_one_minibatch_is_on_policy(run):
    _, metrics = train_step(run)
    assert abs(metrics["ratio_mean"] - 1) < 1e-4 and abs(metrics["ratio_max"] - 1) < 1e-3
    assert metrics["kl_sampler_trainer"] < 1e-6 and metrics["clip_frac"] == 0 and metrics["skipped_updates"] == 0


def test_constant_reward_gives_zero_gradient(run):
    rows = sampled_rows(run)
    for row, advantage in zip(rows, rewards.advantages("trr++", [0.3] * 6, [(r.type, r.role) for r in rows], [None] * 6,
                                                       [len(r.sample.ids) for r in rows]).tolist()):
        row.advantage = advantage
    before = weights(run)
    metrics = update(run, rows)
    assert metrics["grad_norm"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, weights(run)))


@pytest.mark.parametrize("sign", [1, -1])
def test_an_advantage_moves_that_samples_probability_its_way(run, sign):
    rows = sampled_rows(run)
    rows[0].advantage = float(sign)
    texts = [(rows[0].prompt_ids, rows[0].sample.ids)]
    before = train.logprobs(run.policy, texts)[0].sum().item()
    update(run, rows)
    after = train.logprobs(run.policy, texts)[0].sum().item()
    assert (after - before) * sign > 0


def gradient(run: Training, rows: list[Row], micro_tokens: int) -> list[torch.Tensor]:
    weight_R = rewards.token_weights(run.cfg.loss_mean, [(r.type, r.role) for r in rows], [len(r.sample.ids) for r in rows])
    for micro in train.micro_batches(run, rows, micro_tokens):
        micro_loss(run, [rows[i] for i in micro], weight_R[micro])[0].backward()
    found = [parameter.grad.clone() for parameter in run.policy.trained()]
    run.optimizer.zero_grad()
    return found


@pytest.mark.parametrize("loss_mean", ["response", "token", "group"])
def test_micro_batches_change_no_gradient(run, loss_mean):
    rows = sampled_rows(run)
    for i, row in enumerate(rows):
        row.advantage = (-1.0) ** i * (1 + i)
    run.cfg.loss_mean = loss_mean
    assert len(train.micro_batches(run, rows, 1)) == len(rows) and len(train.micro_batches(run, rows, 1 << 20)) == 1
    for one, many in zip(gradient(run, rows, 1), gradient(run, rows, 1 << 20)):
        torch.testing.assert_close(one, many, rtol=1e-3, atol=1e-6)


def test_answers_to_one_prompt_share_it_in_the_update(run):
    """With and without sharing: the same gradient from fewer tokens, also where the budget splits a text."""
    rows = sampled_rows(run)
    prompt = rows[0].prompt_ids
    rows = [replace(row, prompt_ids=prompt if i < 5 else rows[5].prompt_ids, advantage=(-1.0) ** i) for i, row in
            enumerate(rows)]
    together = train.padded_tokens(run, rows[:5])
    assert [len(text) for _, text in train.texts_of(run, rows)] == [5, 1]
    shared, split = gradient(run, rows, 1 << 20), gradient(run, rows, together - 1)
    run.policy.share_prompts = 0
    assert together < train.padded_tokens(run, rows[:5])
    for a, b, c in zip(shared, split, gradient(run, rows, 1 << 20)):
        torch.testing.assert_close(a, c, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(b, c, rtol=1e-3, atol=1e-6)


def test_rows_without_an_advantage_are_left_out_and_change_nothing(run, monkeypatch):
    rows, seen, original = sampled_rows(run), [], train.logprobs
    for i, row in enumerate(rows):
        row.advantage = float(i % 2)
    monkeypatch.setattr(train, "logprobs", lambda policy, texts, *rest: seen.append(len(texts)) or
                        original(policy, texts, *rest))
    before = [p.detach().clone() for p in run.policy.trained()]
    update(run, rows)
    short = weights(run)
    for parameter, old in zip(run.policy.trained(), before):
        parameter.data.copy_(old)
    run.optimizer, run.cfg.entropy_coef = train.make_optimizer(run.cfg, run.policy), 1e-12  # makes it read all rows
    update(run, rows)
    assert sum(seen) == 3 + 6
    for a, b in zip(short, weights(run)):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_micro_batches_put_the_longest_first_and_lose_none(run):
    rows = [Row("solve", "solve", "deduction", "", [1] * n, Sample([1] * m, [0.0] * m, "stop"), "", None, None)
            for n, m in [(5, 5), (30, 2), (1, 1), (9, 9), (3, 20)]]
    batches = train.micro_batches(run, rows, 40)
    assert sorted(i for batch in batches for i in batch) == [0, 1, 2, 3, 4]
    assert batches[0][0] == 1
    length = lambda i: len(rows[i].prompt_ids) + len(rows[i].sample.ids)
    assert all(len(batch) * max(map(length, batch)) <= 40 for batch in batches)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")])
def test_out_of_memory_halves_the_batch_and_changes_no_gradient(run, monkeypatch, error):
    rows = sampled_rows(run)
    for i, row in enumerate(rows):
        row.advantage = (-1.0) ** i * (1 + i)
    wanted, calls, original = gradient(run, rows, 1 << 20), [], train.micro_loss
    limit = 2 * max(train.padded_tokens(run, [row]) for row in rows)  # tokens that fit: two of six rows

    def scarce(run, part, weight_R):
        loss, *rest = original(run, part, weight_R)
        calls.append(train.padded_tokens(run, part))
        if calls[-1] > limit:
            loss.backward(retain_graph=True)  # as if memory had run out near the end of the backward pass
            raise error
        return loss, *rest
    monkeypatch.setattr(train, "micro_loss", scarce)
    run.cfg.micro_tokens = 1 << 20
    weight_R = rewards.token_weights(run.cfg.loss_mean, [(r.type, r.role) for r in rows],
                                     [len(r.sample.ids) for r in rows])
    train.backward(run, rows, weight_R)
    assert calls[0] > limit and 0 < run.micro_tokens <= limit
    for a, b in zip(wanted, run.policy.trained()):
        torch.testing.assert_close(a, b.grad, rtol=1e-3, atol=1e-6)
    run.optimizer.zero_grad()
    calls.clear()
    train.backward(run, rows, weight_R)
    assert max(calls) <= limit, "the smaller budget holds for the rest of the run"
    run.optimizer.zero_grad()


def test_out_of_memory_of_a_single_response_ends_the_run(run, monkeypatch):
    def fail(*rest):
        raise RuntimeError("can't allocate memory")
    monkeypatch.setattr(train, "micro_loss", fail)
    rows = sampled_rows(run)
    with pytest.raises(torch.OutOfMemoryError, match="one response alone"):
        update(run, rows)


def test_micro_batches_from_free_memory(run):
    run.cfg.micro_tokens = 0
    update(run, sampled_rows(run))
    assert 1000 < run.micro_tokens <= train.MOST_MICRO_TOKENS


def test_a_broken_gradient_skips_the_update(run):
    rows = sampled_rows(run)
    rows[0].advantage = float("nan")
    before = weights(run)
    assert update(run, rows)["skipped_updates"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, weights(run)))


def test_several_epochs_and_minibatches_go_off_policy_and_clip(run):
    rows = sampled_rows(run)
    for i, row in enumerate(rows):
        row.advantage = (-1.0) ** i
    run.cfg.epochs, run.cfg.minibatches, run.cfg.lr = 4, 3, 0.05
    run.optimizer = train.make_optimizer(run.cfg, run.policy)
    assert update(run, rows)["clip_frac"] > 0


def test_kl_to_the_starting_model_pulls_back(run):
    """With no reward at all, the KL term alone brings a shifted policy closer to the model without its adapter."""
    rows = sampled_rows(run)
    with torch.no_grad():
        for name, parameter in run.policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    run.cfg.kl_coef, run.cfg.lr = 1.0, 1e-3
    run.optimizer = train.make_optimizer(run.cfg, run.policy)

    def distance() -> float:
        texts = [(row.prompt_ids, row.sample.ids) for row in rows]
        with torch.no_grad():
            logp, _ = train.logprobs(run.policy, texts)
            with train.adapter_off(run.policy):
                reference, _ = train.logprobs(run.policy, texts)
        return float(rewards.kl_k3(logp, reference).mean())
    before = distance()
    for _ in range(5):
        update(run, rows)
    assert distance() < before


def test_entropy_bonus_raises_entropy(run):
    rows = sampled_rows(run)
    run.cfg.entropy_coef, run.cfg.lr = 1.0, 1e-3
    run.optimizer = train.make_optimizer(run.cfg, run.policy)
    texts = [(row.prompt_ids, row.sample.ids) for row in rows]
    before = train.logprobs(run.policy, texts)[1].mean().item()
    for _ in range(3):
        update(run, rows)
    assert train.logprobs(run.policy, texts)[1].mean().item() > before


# ---- one step ---------------------------------------------------------------------------------------------------

def test_a_step_has_the_papers_batches(run):
    rows, metrics = train_step(run)
    counts = Counter((row.kind, row.type) for row in rows)
    for type in tasks.TYPES:
        assert counts["propose", type] == counts["solve", type] == 3
        valid = sum(row.kind == "propose" and row.type == type and row.solve_rate is not None for row in rows)
        assert counts["probe", type] == 3 * valid
        assert sum(metrics[f"solved_of_3/{type}"]) == valid
    for row in rows:
        if row.kind == "propose" and row.solve_rate is not None:
            probes = [probe for probe in rows if probe.kind == "probe" and probe.task is row.task]
            assert len(probes) == 3
            assert row.solve_rate == sum(probe.verdict == "correct" for probe in probes) / 3
            assert row.reward == (0.0 if row.solve_rate in (0, 1) else 1 - row.solve_rate)
    assert json.loads(json.dumps(metrics)) == metrics


def test_advantages_are_standard_within_each_type_and_role(run):
    rows, _ = train_step(run)
    for type in tasks.TYPES:
        for kind in ("propose", "solve"):
            group = torch.tensor([row.advantage for row in rows if (row.type, row.kind) == (type, kind)
                                  and not (kind == "propose" and run_heldout([row], run))])
            assert abs(group.mean()) < 1e-5 and (group.std(correction=0) - 1).abs() < 1e-4 or (group == 0).all()


def test_probes_are_sampled_not_greedy(run):
    """The official master branch measures solve rates at temperature 0, where all n answers are one answer."""
    run.cfg.n_probes = 8
    rollout = train.open_rollout(run)
    rows = train.ask(run, rollout, run.buffers.train["induction"][0], "probe", "probes of one task", 8)
    assert len(list(train.judged(run, rollout, rows))) == 8 and len({row.text for row in rows}) > 1


def test_an_executor_failure_counts_as_unsolved(run, monkeypatch):
    failed = tasks.Verdict(False, "infra", True)
    monkeypatch.setattr(tasks, "verify", lambda answers, executor: [failed] * len(answers))
    rows, metrics = train_step(run)
    rates = {row.solve_rate for row in rows if row.kind == "propose" and row.task} - {None}
    assert rates <= {0.0}
    assert metrics["infra_failures"] == sum(row.role == "solve" for row in rows)


def test_heldout_programs_are_neither_trained_on_nor_shown(run, monkeypatch):
    run.cfg.heldout_fraction = 0.5
    for name in tasks.TYPES:
        run.buffers.train[name] = [t for t in run.buffers.train[name] if not tasks.is_heldout(t.key, 0.5)]
    updated = []
    monkeypatch.setattr(train, "update", lambda run, rows: updated.extend(rows) or {})
    for run.step in range(1, 5):
        rows, _ = train_step(run)
        shown = [row.reference for row in rows if row.reference] + [row.task for row in rows if row.role == "solve"]
        assert not any(tasks.is_heldout(task.key, 0.5) for task in shown)
    assert not any(row.task and tasks.is_heldout(row.task.key, 0.5) for row in updated)
    kept = [task for buffer in run.buffers.heldout.values() for task in buffer]
    assert kept and all(tasks.is_heldout(task.key, 0.5) for task in kept)
    assert not any(tasks.is_heldout(task.key, 0.5) for buffer in run.buffers.train.values() for task in buffer)


def test_programs_of_the_heldout_file_are_held_out_too(run):
    """With a file of one's own the hash rule alone would let its programs into training."""
    run.cfg.heldout_fraction = 0.0
    rows, _ = train_step(run)
    run.frozen = [row.task for row in rows if row.kind == "propose" and row.task]
    run.frozen_keys = {task.key for task in run.frozen}
    again, _ = train_step(run)  # same seed and step: the same prompts, sampled from a policy that hardly moved
    keys = {task.key for task in run.frozen}
    assert not any(row.task and row.task.key in keys for row in again if row.solve_rate is not None)


def test_a_run_says_in_words_what_needs_attention(run):
    _, metrics = train_step(run)
    metrics |= {"cut_off/solve/induction": 0.5, "valid/deduction": 0.0, "skipped_updates": 1}
    lines = " ".join(line for _, line in train.warnings_of(metrics, run.cfg))
    assert "50% of the solve/induction responses" in lines and "no valid deduction" in lines and "skipped" in lines


@pytest.mark.parametrize("newest", ["this", "previous"])
def test_the_solver_gets_the_tasks_of_the_chosen_step_first(run, newest):
    run.cfg.solve_tasks = newest
    train_step(run)
    run.step = 2
    rows, _ = train_step(run)
    wanted = {"this": 2, "previous": 1}[newest]
    for type in tasks.TYPES:
        new = sum(task.step == wanted for task in run.buffers.train[type])
        got = Counter(row.task.step for row in rows if row.kind == "solve" and row.type == type)
        assert got[wanted] == min(3, new)
        assert not got[2] or newest == "this"


@pytest.mark.parametrize("changes", [
    dict(solve_tasks="probes", advantage="trr++"), dict(solve_tasks="probes"), dict(advantage="reinforce++"),
    dict(train_propose=False), dict(references=0), dict(whitening="token", loss_mean="token"), dict(loss_mean="group"),
    dict(extreme_reward=-0.5, solve_weight=2.0), dict(kl_coef=0.1, entropy_coef=0.01), dict(epochs=2, minibatches=2),
    dict(types=["deduction"]), dict(types=["abduction", "deduction"]), dict(types=["induction"]),
    dict(temperature=0.7), dict(checkpoint_layers=True)], ids=str)
def test_every_switch_runs_a_step(run, changes):
    for name, value in changes.items():
        setattr(run.cfg, name, value)
    check(run.cfg)
    rows, metrics = train_step(run)
    assert {row.type for row in rows} == set(run.cfg.types) and metrics["skipped_updates"] == 0
    if changes.get("solve_tasks") == "probes":
        assert not any(row.kind == "solve" for row in rows)
    if changes.get("references") == 0:
        assert all("```output" not in row.prompt for row in rows if row.kind == "propose")


def test_a_step_with_nothing_to_train_on_is_survived(run):
    run.cfg.train_propose, run.cfg.solve_tasks = False, "probes"
    before = weights(run)
    assert update(run, []) == {"skipped_updates": 1}
    assert all(torch.equal(a, b) for a, b in zip(before, weights(run)))


def test_all_weights_train_at_rank_0(executor, tmp_path):
    cfg = config(lora_rank=0, lr=1e-3)
    policy = load_policy(cfg.model, lora_rank=0)
    run = Training(cfg, tmp_path, policy, train.make_optimizer(cfg, policy), executor, tasks.Style("compact", 6),
              tasks.Buffers(10), 1)
    for type in tasks.TYPES.values():
        run.buffers.add(tasks.identity_task(type, 6))
    rows, _ = train_step(run)
    before = weights(run)
    for row in rows:
        row.advantage = 1.0
    update(run, [row for row in rows if row.kind == "propose"])
    moved = [not torch.equal(a, b) for a, b in zip(before, weights(run))]
    assert sum(moved) > 0.9 * len(moved)


# ---- whole runs -------------------------------------------------------------------------------------------------

TIMES = ("seconds/", "tokens_per_second", "peak_memory_gb")


def metrics_of(folder: Path) -> list[dict]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if not key.startswith(TIMES)} for line in lines]


def same_run(a: Path, b: Path) -> None:
    """Bit-equal but for times: metrics, samples, weights, optimizer state, buffers."""
    assert metrics_of(a) == metrics_of(b)
    assert (a / "samples.jsonl").read_text() == (b / "samples.jsonl").read_text()
    states = [json.loads((folder / "checkpoint" / "state.json").read_text()) for folder in (a, b)]
    assert states[0]["step"] == states[1]["step"] and states[0]["buffers"] == states[1]["buffers"]
    sums = [json.loads((folder / "checkpoint" / "checksums.json").read_text()) for folder in (a, b)]
    assert {k: v for k, v in sums[0].items() if k != "state.json"} == {k: v for k, v in sums[1].items() if k != "state.json"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An uninterrupted run of three steps."""
    folder = tmp_path_factory.mktemp("whole")
    done = run_train(folder, *TINY, "--steps", "3", "--name", "a")
    assert done.returncode == 0, done.stderr
    assert "| deduction | all |" in done.stdout and "preset nano" in done.stdout.splitlines()[0]
    return folder / "runs" / "a"


def test_a_run_leaves_its_files(whole):
    saved = json.loads((whole / "config.json").read_text())
    assert set(saved) == {f.name for f in train.fields(Config)} and saved["batch_size"] == 3
    assert [line["step"] for line in metrics_of(whole)] == [1, 2, 3]
    samples = [json.loads(line) for line in (whole / "samples.jsonl").read_text().splitlines()]
    assert {sample["step"] for sample in samples} == {0, 1, 2, 3}
    assert {"role", "kind", "type", "prompt", "text", "reward", "verdict", "finish"} <= set(samples[0])
    assert (whole / "checkpoint" / "policy" / "adapter_model.safetensors").is_file()
    assert (whole / "checkpoint.old" / "state.json").is_file()
    assert "| type | depth | tasks | before | after | change |" in (whole / "heldout.md").read_text()
    assert "</html>" in (whole / "report.html").read_text()
    assert json.loads((whole / "machine.json").read_text())["commit"]
    assert json.loads((whole / "preset.json").read_text())["batch_size"] == train.PRESETS["nano"]["batch_size"]


def test_the_same_seed_gives_the_same_run(whole, tmp_path):
    assert run_train(tmp_path, *TINY, "--steps", "3", "--name", "a").returncode == 0
    same_run(whole, tmp_path / "runs" / "a")


def test_kill_in_the_middle_of_a_step_then_resume_is_bit_equal(whole, tmp_path):
    folder = tmp_path / "runs" / "a"
    process = subprocess.Popen([sys.executable, str(ROOT / "train.py"), *TINY, "--steps", "3", "--name", "a"], cwd=tmp_path,
                               env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    state = folder / "checkpoint" / "state.json"
    while process.poll() is None:  # the checkpoint of step 1 is there: step 2 is under way
        try:
            if json.loads(state.read_text())["step"] >= 1:
                break
        except (OSError, ValueError):
            pass
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # What a step had written when it died, and a checkpoint it had begun.
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "half a li')
    (folder / "checkpoint.new").mkdir(exist_ok=True)
    done = run_train(tmp_path, "--resume", "runs/a")
    assert done.returncode == 0, done.stderr
    same_run(whole, folder)


def test_a_killed_rename_leaves_the_previous_checkpoint_in_use(whole, tmp_path):
    """Between the two renames of save_checkpoint there is no folder `checkpoint`."""
    assert train.find_checkpoint(tmp_path) is None
    shutil.copytree(whole / "checkpoint.old", tmp_path / "checkpoint.old")
    assert train.find_checkpoint(tmp_path) == tmp_path / "checkpoint.old"
    shutil.copytree(whole / "checkpoint", tmp_path / "checkpoint.new")
    (tmp_path / "checkpoint.new" / "optimizer.pt").rename(tmp_path / "optimizer.pt")
    assert train.find_checkpoint(tmp_path) == tmp_path / "checkpoint.old"  # the new one is not complete
    (tmp_path / "optimizer.pt").rename(tmp_path / "checkpoint.new" / "optimizer.pt")
    assert train.find_checkpoint(tmp_path) == tmp_path / "checkpoint"


def test_keep_samples_thins_the_samples_file(run, tmp_path):
    rows, _ = train_step(run)
    log = train.Log(tmp_path, keep_samples=1, sizes=[0, 0])
    log.samples(rows, 1)
    log.sync()
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert set(Counter((s["type"], s["kind"]) for s in samples).values()) == {1}


def test_a_seed_file_replaces_seeding(run, tmp_path, monkeypatch):
    run.cfg.seed_tasks, run.cfg.heldout_fraction = str(tmp_path / "seeds.jsonl"), 0.0
    lines = [json.dumps(tasks.task_to_json(task)) for buffer in run.buffers.train.values() for task in buffer]
    (tmp_path / "seeds.jsonl").write_text("\n".join(lines) + "\n")
    given = run.buffers.to_json()
    run.buffers = tasks.Buffers(100)
    monkeypatch.setattr(train, "generate", None)  # nothing is asked of the model
    train.seed_buffers(run, train.Log(tmp_path, -1, [0, 0]))
    assert run.buffers.to_json()["train"] == given["train"]


def test_seeding_grows_from_the_identity_alone(run, tmp_path):
    run.buffers, run.step, run.cfg.seed_factor = tasks.Buffers(100), 0, 2
    train.seed_buffers(run, train.Log(tmp_path, -1, [0, 0]))
    for type, buffer in run.buffers.train.items():
        assert buffer[0].program == tasks.IDENTITY and 1 < len(buffer) <= 6
        assert len({repr((task.program, task.inputs)) for task in buffer}) == len(buffer)
        assert all(task.type == type and task.step == 0 for task in buffer)
    pairs = [[(task.program, task.inputs) for task in run.buffers.train[name]] for name in ("deduction", "abduction")]
    assert pairs[0] == pairs[1]


# ---- bad input: one line, non-zero, nothing lost ------------------------------------------------------------------

def fails(folder: Path, *flags: str, says: str, **options) -> None:
    done = run_train(folder, *flags, **options)
    errors = done.stderr.strip().splitlines()
    assert done.returncode != 0
    assert errors and errors[-1].startswith("train.py: ") and says in errors[-1], done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("flags, says", [
    (["--stepz", "3"], "--stepz"), (["--steps", "three"], "steps"), (["--steps", "0"], "--steps 0"),
    (["--preset", "huge"], "choose from nano"), (["--types", "deduction", "magic"], "magic"),
    (["--prompt", "poem"], "poem"), (["--n_inputs", "5"], "even"),
    (["--advantage", "grpo", "--solve_tasks", "this"], "--solve_tasks"),
    (["--control", "shuffled", "--train_propose", "False"], "--control shuffled"),
    (["--lora_rank", "0", "--kl_coef", "0.1"], "--kl_coef"), (["--temperature", "0"], "--temperature"),
    (["--lr", "nan"], "--lr"), (["--grad_clip", "0"], "--grad_clip"), (["--device", "gpu"], "cpu or cuda"),
    (["--name", "../x"], "--name"), (["--eval_limit", "-1"], "--eval_limit"), (["--clip_low", "-3"], "--clip_low"),
    (["--seed_tasks", "nowhere.jsonl"], "no such file"), (["--lora_rank", "0", "--load_in_4bit"], "--load_in_4bit"),
])
def test_bad_flags_end_with_one_line(flags, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.run_main(["--preset", "nano", "--device", "cpu", *flags]) != 0
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and err.startswith("train.py: ") and says in err
    assert not (tmp_path / "runs").exists(), "nothing is made before the flags are right"


def test_a_hub_name_without_network_a_missing_folder_and_an_unsupported_model(tmp_path, tiny):
    fails(tmp_path, *TINY, "--model", "Qwen/Qwen2.5-Coder-3B", "--name", "hub", says="--preset nano")
    fails(tmp_path, *TINY, "--model", "./nowhere", "--name", "folder", says="no such folder")
    assert not any((tmp_path / "runs").iterdir()), "the names stay free"
    config = Path(tiny()) / "config.json"
    config.write_text(config.read_text().replace('"qwen2"', '"gpt2"'))
    fails(tmp_path, *TINY, "--model", str(config.parent), "--name", "odd", says="supported families")


def test_a_run_folder_is_never_overwritten_and_never_used_twice(whole, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(whole.parent.parent)
    assert train.run_main([*TINY, "--name", "a"]) != 0
    assert "exists already" in capsys.readouterr().err
    _, lock = train.open_folder(parse(["--resume", "runs/a"])[0])
    with lock:
        fails(whole.parent.parent, "--resume", "runs/a", says="in use")
    (tmp_path / "config.json").write_text("[]")  # somebody else's
    for other in ("runs/none", str(tmp_path)):
        assert train.run_main(["--resume", other]) != 0
        assert "not a run folder" in capsys.readouterr().err
    assert train.run_main(["--resume", "runs/a", "--lr", "1"]) != 0
    assert "--lr cannot change" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named_with_the_way_on(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "runs" / "a")
    weights = folder / "checkpoint" / "policy" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    fails(tmp_path, "--resume", "runs/a", says="damaged (policy/adapter_model.safetensors)")
    shutil.rmtree(folder / "checkpoint")  # as the line says
    done = run_train(tmp_path, "--resume", "runs/a")
    assert done.returncode == 0, done.stderr
    same_run(whole, folder)


@pytest.mark.parametrize("limit_bytes", [10_000, 100_000])  # the logs do not fit; the checkpoint does not fit
def test_a_full_disk_loses_the_current_step_only_and_more_steps_go_on(whole, tmp_path, limit_bytes):
    """A limit on file size stands in for a full disk: the kernel refuses the write in the middle."""
    folder = shutil.copytree(whole, tmp_path / "runs" / "a")
    fails(tmp_path, "--resume", "runs/a", "--steps", "4", says="--resume", limit_bytes=limit_bytes)
    state = json.loads((folder / "checkpoint" / "state.json").read_text())
    assert state["step"] == 3 and train.find_checkpoint(folder) == folder / "checkpoint"
    if limit_bytes == 100_000:
        assert run_train(tmp_path, "--resume", "runs/a", "--steps", "4").returncode == 0
        assert [line["step"] for line in metrics_of(folder)] == [1, 2, 3, 4]


def test_a_full_disk_at_the_first_checkpoint_keeps_the_folder(tmp_path):
    fails(tmp_path, *TINY, "--steps", "1", "--name", "a", says="it is the first one", limit_bytes=60_000)
    assert (tmp_path / "runs" / "a" / "samples.jsonl").stat().st_size > 0
    assert run_train(tmp_path, "--resume", "runs/a").returncode == 0
    assert [line["step"] for line in metrics_of(tmp_path / "runs" / "a")] == [1]


def test_a_removed_samples_file_is_begun_anew(whole, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("x" * 10)
    log = train.Log(tmp_path, -1, [5, 300])
    log.metrics({"step": 1, "grad_norm": float("nan")})
    assert log.sync()[1] == 0
    assert (tmp_path / "metrics.jsonl").read_text() == 'xxxxx{"step": 1, "grad_norm": null}\n'
    assert (tmp_path / "samples.jsonl").read_text() == ""


def test_a_valid_task_whose_prompts_would_not_fit_is_not_kept(run, monkeypatch):
    """Shown as a reference it would be longer than as a question, and end the run at every resume."""
    long = "def f(x):\n    return x + [1]"
    text = f"int</think><answer>```python\n{long}\n```\n```input\n{[1] * 125}\n```</answer>"
    row = Row("propose", "propose", "deduction", "", [1], Sample([1], [0.0], "stop"), text, None, None)
    train.note_gate(run, [row], tasks.gate([(tasks.DEDUCTION, text, None)], run.executor))
    assert row.task is None and row.verdict == "prompt too long"


def test_resume_keeps_its_own_flags(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "a")
    cfg, _ = parse(["--resume", str(folder), "--steps", "9", "--slots", "7"])
    train.open_folder(cfg)[1].close()
    again, _ = parse(["--resume", str(folder)])
    assert (again.steps, again.slots, again.resume) == (9, 7, str(folder))


def test_interrupt_leaves_no_process_and_a_whole_checkpoint(tmp_path):
    process = subprocess.Popen([sys.executable, str(ROOT / "train.py"), *TINY, "--steps", "50", "--name", "a"], cwd=tmp_path,
                               env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)
    for line in process.stdout:
        if line.startswith("step    1"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in err and "Traceback" not in err
    assert train.find_checkpoint(tmp_path / "runs" / "a") is not None


def test_help_reads_well():
    done = subprocess.run([sys.executable, str(ROOT / "train.py"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for field in train.fields(Config):
        assert f"--{field.name}" in done.stdout and field.metadata["help"]


def test_presets_name_only_real_fields():
    names = {field.name for field in train.fields(Config)}
    for preset in train.PRESETS.values():
        assert set(preset) <= names
        check(replace(config(), **preset))


def test_the_rollout_is_gone_when_the_update_starts(run, monkeypatch):
    """Its keys, values and copies of weights are memory that the update needs."""
    held = []
    opened, original = train.open_rollout, train.update

    def open_rollout(run):
        held.append(weakref.ref(rollout := opened(run)))
        return rollout

    def update(run, rows):
        assert held[0]() is None
        return original(run, rows)
    monkeypatch.setattr(train, "open_rollout", open_rollout)
    monkeypatch.setattr(train, "update", update)
    train_step(run)


def test_a_buffer_smaller_than_a_step_still_gives_b_rows_to_solve(run):
    run.cfg = replace(run.cfg, types=["deduction"])
    run.buffers.size = 1
    rows, _ = train_step(run)
    assert sum(row.kind == "solve" for row in rows) <= run.cfg.batch_size


# ---- controls ---------------------------------------------------------------------------------------------------

def test_proposals_of_the_starting_model_stay_what_they_were_and_are_not_trained_on(run, monkeypatch):
    """A frozen proposer: whatever the policy has become, the same prompt gets the same proposal."""
    run.cfg.propose_from = "start"

    def proposals():
        rows, _ = train_step(run)
        return [(row.prompt_ids, row.sample.ids) for row in rows if row.kind == "propose"]
    buffers = run.buffers.to_json()
    before = proposals()
    trained = []
    monkeypatch.setattr(train, "update", lambda run, rows: trained.extend(rows) or {})
    for parameter in run.policy.trained():
        torch.nn.init.normal_(parameter, std=0.3)
    run.buffers = tasks.Buffers.from_json(buffers)
    assert proposals() == before
    assert trained and {row.role for row in trained} == {"solve"}


def test_tasks_from_a_file_take_the_place_of_proposals(run, tmp_path):
    known = [task for buffer in run.buffers.train.values() for task in buffer]
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(tasks.task_to_json(task)) + "\n" for task in known))
    run.cfg.propose_from, run.cfg.solve_tasks = str(path), "probes"
    run.given = train.given_tasks(run)
    rows, metrics = train_step(run)
    given = [row for row in rows if row.kind == "propose"]
    assert Counter(row.type for row in given) == dict.fromkeys(run.cfg.types, run.cfg.batch_size)
    assert {row.task.program for row in given} <= {task.program for task in known}
    probed = [row for row in given if row.solve_rate is not None]
    assert sum(row.kind == "probe" for row in rows) == run.cfg.n_probes * len(probed) > 0
    assert all(row.advantage == 0 for row in given) and metrics["length/propose/deduction"] is None
    path.write_text("".join(json.dumps(tasks.task_to_json(task)) + "\n" for task in known if task.type != "induction"))
    with pytest.raises(train.UserError, match="no induction task"):
        train.given_tasks(run)
    path.write_text(json.dumps(tasks.task_to_json(known[0])) + "\n")
    run.cfg.max_prompt_tokens = 5
    with pytest.raises(train.UserError, match="line 1: its prompts are longer"):
        train.given_tasks(run)


def test_a_response_that_never_fits_ends_the_run_with_a_line(run, monkeypatch):
    """Whatever its length: the longest micro-batch of short ones may be larger than what failed."""
    row = sampled_rows(run)[0]
    long = replace(row, prompt_ids=row.prompt_ids * 20)
    original = train.micro_loss

    def scarce(run, part, weight_R):
        if any(other is long for other in part):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(run, part, weight_R)
    monkeypatch.setattr(train, "micro_loss", scarce)
    rows = [long, *(replace(row) for _ in range(8))]
    run.micro_tokens = train.padded_tokens(run, [long]) // 3
    with pytest.raises(torch.OutOfMemoryError, match="one response alone is too long"):
        train.backward(run, rows, torch.ones(len(rows)))


def rewarded(role: str, values: list[float]) -> list[Row]:
    return [Row(role, role, "deduction" if i % 2 else "induction", "", [1], Sample([1], [0.0], "stop"), "", None, None,
                well_formed=True, reward=value) for i, value in enumerate(values)]


def test_controls_take_only_what_a_reward_tells(run):
    valid, solves = rewarded("propose", [i / 100 for i in range(100)]), rewarded("solve", [1.0] * 1000)
    before = [row.reward for row in valid]
    train.take_control(run, valid, solves)
    assert [row.reward for row in valid] == before and all(row.reward == 1.0 for row in solves)
    run.cfg.control = "shuffled"
    train.take_control(run, valid, solves)
    after = [row.reward for row in valid]
    assert after != before and sorted(after[::2]) == before[::2] and sorted(after[1::2]) == before[1::2]
    run.cfg.control = "random"
    solves[0].well_formed = False
    train.take_control(run, valid, solves)
    assert [row.reward for row in valid] == after
    assert solves[0].reward == -1.0 and 400 < sum(row.reward == 1.0 for row in solves) < 600


def test_the_learning_rate_falls_on_a_straight_line(run):
    run.cfg.lr, run.cfg.lr_final, run.cfg.steps = 1.0, 0.2, 5
    run.optimizer, rates = train.make_optimizer(run.cfg, run.policy), []
    for step in range(1, 6):
        train.set_rate(run.optimizer, run.cfg, step)
        rates.append(run.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])

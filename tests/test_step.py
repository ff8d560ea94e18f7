"""One training step at its seams: what is sampled is what is trained, what is rewarded is what was judged."""
import json
import weakref
from collections import Counter
from dataclasses import replace

import pytest
import torch

import cards
import rewards
import runfolder
import tasks
import train
from config import UserError, check
from model import load_policy
from runs import ROOT, config
from sampler import Sample
from sandbox import parsing
from train import Row, Training, micro_loss, train_step, update


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
        facts = parsing.inspect_program(program)
        for type in tasks.TYPES.values():
            inputs = tuple((i,) for i in range(6 if type.given_program else 1))
            outputs = ("NoError",) if type.name == "error" else tuple(i[0] + k for i in inputs)
            buffers.add(tasks.Task(type.name, program, inputs, outputs, "1 steps", 0, facts["key"], facts["depth"]))
    return Training(cfg, tmp_path, policy, train.make_optimizer(cfg, policy), executor,
                    tasks.Style("compact", 6, stops=("</answer>",)), buffers, 1)


def weights(run: Training) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in run.policy.trained()]


def sampled_rows(run: Training, count: int = 6) -> list[Row]:
    """Real samples of both roles, no rewards yet."""
    rows, rollout = train.propose(run, tasks.DEDUCTION)[:count // 2], train.open_rollout(run)
    train.sample_proposals(run, rollout, rows)
    for number, task in enumerate(run.buffers.train["deduction"][:count - len(rows)]):
        rows += train.ask(run, rollout, task, "solve", str(number))
    judged = list(train.judged(run, rollout, rows))
    assert len(judged) == count and set(judged) == set(rows)
    return rows


# ---- seams ------------------------------------------------------------------------------------------------------

@pytest.mark.quick
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
    assert all([probe.task for probe in row.probes] == [row.task] * run.cfg.n_probes for row in valid)
    assert of["probe"] == [probe for row in valid for probe in row.probes]
    if run.cfg.solve_tasks == "probes":  # the buffer gives what is missing to B probed tasks a type
        asked = {row.key for row in rows if row.role == "solve"}
        assert len(asked) == run.cfg.batch_size * len(run.cfg.types)
        assert len(of["probe"] + of["solve"]) == len(asked) * run.cfg.n_probes
        assert all(row.task.step < run.step and row.advantage is not None for row in of["solve"])
    if run.cfg.solve_tasks != "probes":
        assert len(of["solve"]) == run.cfg.batch_size * len(run.cfg.types)
        solved = {(row.task.id, row.task.step) for row in of["solve"]}
        new = {(row.task.id, row.task.step) for row in valid}
        assert new <= solved if run.cfg.solve_tasks == "this" else not new & solved
    assert all(row.verdict for row in rows)


def run_heldout(rows: list[Row], run: Training) -> int:
    return sum(row.kind == "propose" and row.task is not None and
               tasks.is_heldout(row.task.key, run.cfg.heldout_fraction) for row in rows)


@pytest.mark.quick
def test_one_epoch_one_minibatch_is_on_policy(run):
    _, metrics = train_step(run)
    assert abs(metrics["ratio_mean"] - 1) < 1e-4 and abs(metrics["ratio_max"] - 1) < 1e-3
    assert metrics["kl_sampler_trainer"] < 1e-6 and metrics["clip_frac"] == 0 and metrics["skipped_updates"] == 0


@pytest.mark.quick
def test_constant_reward_gives_zero_gradient(run):
    rows = sampled_rows(run)
    for row, advantage in zip(rows, rewards.advantages("trr++", [0.3] * 6, [(r.type, r.role) for r in rows], [None] * 6,
                                                       [len(r.sample.ids) for r in rows]).tolist()):
        row.advantage = advantage
    before = weights(run)
    metrics = update(run, rows)
    assert metrics["grad_norm"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, weights(run)))


def test_where_no_row_has_an_advantage_momentum_goes_on(run):
    """As in the official code, which makes the optimizer's step whatever the gradient."""
    rows = sampled_rows(run)
    for row in rows:
        row.advantage = 1.0
    update(run, rows)
    for row in rows:
        row.advantage = 0.0
    before = weights(run)
    assert update(run, rows)["grad_norm"] == 0
    assert not all(torch.equal(a, b) for a, b in zip(before, weights(run)))


@pytest.mark.quick
@pytest.mark.parametrize("sign", [1, -1])
def test_an_advantage_moves_that_samples_probability_its_way(run, sign):
    rows = sampled_rows(run)
    rows[0].advantage = float(sign)
    texts = [(rows[0].prompt_ids, rows[0].sample.ids)]
    before = train.logprobs(run.policy, texts)[0].sum().item()
    update(run, rows)
    after = train.logprobs(run.policy, texts)[0].sum().item()
    assert (after - before) * sign > 0


def padded_tokens(run: Training, rows: list[Row]) -> int:
    """Of the rows in one batch."""
    ((tokens, _),) = train.micro_batches(run, rows, 1 << 40)
    return tokens


def gradient(run: Training, rows: list[Row], micro_tokens: int) -> list[torch.Tensor]:
    weight_R = rewards.token_weights(run.cfg.loss_mean, [(r.type, r.role) for r in rows], [len(r.sample.ids) for r in rows])
    for _, micro in train.micro_batches(run, rows, micro_tokens):
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
    together = padded_tokens(run, rows[:5])
    assert together < sum(padded_tokens(run, [row]) for row in rows[:5])
    shared, split = gradient(run, rows, 1 << 20), gradient(run, rows, together - 1)
    run.policy.share_prompts = 0
    assert together < padded_tokens(run, rows[:5])
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
    rows = [Row("solve", "solve", "deduction", "", [1] * n, sample=Sample([1] * m, [0.0] * m, "stop"))
            for n, m in [(5, 5), (30, 2), (1, 1), (9, 9), (3, 20)]]
    sizes, batches = zip(*train.micro_batches(run, rows, 40))
    assert sorted(i for batch in batches for i in batch) == [0, 1, 2, 3, 4]
    assert batches[0][0] == 1
    length = lambda i: len(rows[i].prompt_ids) + len(rows[i].sample.ids)
    assert all(len(batch) * max(map(length, batch)) == size <= 40 for size, batch in zip(sizes, batches))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")])
def test_out_of_memory_halves_the_batch_and_changes_no_gradient(run, monkeypatch, error):
    rows = sampled_rows(run)
    for i, row in enumerate(rows):
        row.advantage = (-1.0) ** i * (1 + i)
    wanted, calls, original = gradient(run, rows, 1 << 20), [], train.micro_loss
    limit = 2 * max(padded_tokens(run, [row]) for row in rows)  # tokens that fit: two of six rows

    def scarce(run, part, weight_R):
        loss, *rest = original(run, part, weight_R)
        calls.append(padded_tokens(run, part))
        if calls[-1] > limit:
            loss.backward(retain_graph=True)  # as if memory had run out near the end of the backward pass
            raise error
        return loss, *rest
    monkeypatch.setattr(train, "micro_loss", scarce)
    run.cfg.micro_tokens, run.policy.device_memory = 1 << 14, object()
    weight_R = rewards.token_weights(run.cfg.loss_mean, [(r.type, r.role) for r in rows],
                                     [len(r.sample.ids) for r in rows])
    train.backward(run, rows, weight_R)
    assert calls[0] == calls[1] > limit, "layers are recomputed before micro-batches are halved"
    assert run.policy.checkpoint_layers and 0 < run.micro_tokens <= limit and run.policy.device_memory is None
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
    assert 1000 < run.micro_tokens <= cards.MOST_MICRO_TOKENS and not run.policy.checkpoint_layers


def test_a_broken_gradient_skips_the_update(run):
    rows = sampled_rows(run)
    rows[0].advantage = float("nan")
    before = weights(run)
    assert update(run, rows)["skipped_updates"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, weights(run)))


def test_weights_that_run_away_end_the_run_before_they_are_saved(run):
    rows = sampled_rows(run)
    rows[0].advantage, run.cfg.lr = 1.0, 3e37
    run.optimizer = train.make_optimizer(run.cfg, run.policy)
    with pytest.raises(UserError, match="weights in the update are not finite .* lower --lr"):
        update(run, rows)
    with pytest.raises(UserError, match="log-probs in the update are not finite"):
        update(run, rows)


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

@pytest.mark.quick
def test_a_step_has_the_papers_batches(run):
    rows, metrics = train_step(run)
    counts = Counter((row.kind, row.type) for row in rows)
    for type in run.cfg.types:
        assert counts["propose", type] == counts["solve", type] == 3
        valid = sum(row.kind == "propose" and row.type == type and row.solve_rate is not None for row in rows)
        assert counts["probe", type] == 3 * valid
        assert sum(metrics[f"solved_of_3/{type}"]) == valid
    for row in rows:
        if row.kind == "propose" and row.solve_rate is not None:
            assert len(row.probes) == 3 and set(row.probes) <= set(rows)
            assert row.solve_rate == sum(probe.verdict == "correct" for probe in row.probes) / 3
            assert row.reward == (0.0 if row.solve_rate in (0, 1) else 1 - row.solve_rate)
    assert json.loads(json.dumps(metrics)) == metrics


def test_advantages_are_standard_within_each_type_and_role(run):
    rows, _ = train_step(run)
    for type in run.cfg.types:
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
        shown = [task for row in rows for task in row.references] + [row.task for row in rows if row.role == "solve"]
        assert not any(tasks.is_heldout(task.key, 0.5) for task in shown)
    assert not any(row.task and tasks.is_heldout(row.task.key, 0.5) or row.answer_heldout for row in updated)
    kept = [task for buffer in run.buffers.heldout.values() for task in buffer]
    assert kept and all(tasks.is_heldout(task.key, 0.5) for task in kept)
    assert not any(tasks.is_heldout(task.key, 0.5) for buffer in run.buffers.train.values() for task in buffer)


def test_answers_that_are_heldout_programs_are_told_apart(run):
    run.cfg.heldout_fraction = 0.0
    programs = ["def f(x):\n    return x", "def f(y):\n    # the same\n    return y", "def f(x):\n    return x + 0"]
    run.heldout_keys = {parsing.program_key(programs[0])}
    task = tasks.identity_task(tasks.INDUCTION, 6)
    rows = [Row("solve", "probe", "induction", "", [], task=task, text="</think><answer>"
                + tasks.fence("python", program) + "</answer>") for program in programs]
    rows.append(Row("solve", "probe", "deduction", "", [], task=tasks.identity_task(tasks.DEDUCTION),
                    text="</think><answer>'def f(x):\\n    return x'</answer>"))
    facts = {"key": [*run.heldout_keys][0], "depth": 0, "reason": "", "why": "", "may_show": ""}
    assert tasks.are_facts(facts)
    rows.append(replace(rows[-1], text=f"</think><answer>{facts}</answer>"))  # like the parser's report
    train.judge(run, rows)
    assert [row.answer_heldout for row in rows] == [True, True, False, False, False]


def test_programs_of_the_heldout_file_are_held_out_too(run):
    """With a file of one's own the hash rule alone would let its programs into training."""
    run.cfg.heldout_fraction = 0.0
    rows, _ = train_step(run)
    run.heldout_keys = {row.task.key for row in rows if row.kind == "propose" and row.task}
    again, _ = train_step(run)  # same seed and step: the same prompts, sampled from a policy that hardly moved
    assert not any(row.task and row.task.key in run.heldout_keys for row in again if row.solve_rate is not None)


def test_a_run_says_in_words_what_needs_attention(run):
    _, metrics = train_step(run)
    metrics |= {"cut_off/solve/induction": 0.5, "valid/deduction": 0.0, "skipped_updates": 1}
    late = metrics | {"step": 99, "bad_format/solve/deduction": 1.0}  # with all keys of a step, lists among them
    first = {key: 1e6 for key in metrics if key.startswith("length/")}
    assert {key.split("/")[0] for key, _ in runfolder.step_warnings(late, run.cfg, first)} >= {"short", "cut_off"}
    assert not runfolder.step_warnings(late, run.cfg, {key: 1.0 for key in first})[0][0].startswith("short")
    lines = " ".join(line for _, line in runfolder.step_warnings(metrics, run.cfg, {}))
    assert "50% of the solve/induction responses" in lines and "no valid deduction" in lines and "skipped" in lines


@pytest.mark.parametrize("newest", ["this", "previous"])
def test_the_solver_gets_the_tasks_of_the_chosen_step_first(run, newest):
    run.cfg.solve_tasks = newest
    train_step(run)
    run.step = 2
    rows, _ = train_step(run)
    wanted = {"this": 2, "previous": 1}[newest]
    for type in run.cfg.types:
        new = sum(task.step == wanted for task in run.buffers.train[type])
        got = Counter(row.task.step for row in rows if row.kind == "solve" and row.type == type)
        assert got[wanted] == min(3, new)
        assert not got[2] or newest == "this"


@pytest.mark.parametrize("changes", [
    dict(solve_tasks="probes", advantage="trr++"), dict(solve_tasks="probes"), dict(advantage="reinforce++"),
    dict(train_propose=False), dict(references=0), dict(whitening="token", loss_mean="token"), dict(loss_mean="group"),
    dict(extreme_reward=-0.5, solve_weight=2.0), dict(kl_coef=0.1, entropy_coef=0.01), dict(epochs=2, minibatches=2),
    dict(types=["deduction"]), dict(types=["abduction", "deduction"]), dict(types=["induction"]), dict(types=["error"]),
    dict(temperature=0.7), dict(checkpoint_layers=True)], ids=str)
def test_every_switch_runs_a_step(run, changes):
    for name, value in changes.items():
        setattr(run.cfg, name, value)
    check(run.cfg)
    rows, metrics = train_step(run)
    assert {row.type for row in rows} == set(run.cfg.types) and metrics["skipped_updates"] == 0
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


def test_keep_samples_thins_the_samples_file(run, tmp_path):
    rows, _ = train_step(run)
    log = runfolder.Log(tmp_path, keep_samples=1, sizes=[0, 0, 0])
    log.samples(rows, 1)
    log.sync()
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert set(Counter((s["type"], s["kind"]) for s in samples).values()) == {1}


def test_a_seed_file_replaces_seeding(run, tmp_path, monkeypatch):
    run.cfg.seed_tasks, run.cfg.heldout_fraction = str(tmp_path / "seeds.jsonl"), 0.0
    lines = [json.dumps(tasks.task_to_json(task)) for buffer in run.buffers.train.values() for task in buffer]
    (tmp_path / "seeds.jsonl").write_text("\n".join(lines) + "\n")
    given = run.buffers.to_json()
    run.buffers, run.seeds = tasks.Buffers(100), train.fitting_tasks(run, run.cfg.seed_tasks)
    monkeypatch.setattr(train, "generate", None)  # nothing is asked of the model
    train.seed_buffers(run, runfolder.Log(tmp_path, -1, [0, 0, 0]))
    assert run.buffers.to_json()["train"] == given["train"]


def test_seeding_grows_from_the_identity_alone(run, tmp_path):
    run.buffers, run.step, run.cfg.seed_factor = tasks.Buffers(100), 0, 2
    train.seed_buffers(run, runfolder.Log(tmp_path, -1, [0, 0, 0]))
    assert not run.buffers.train["error"], "a type that is off is not seeded"
    for type in run.cfg.types:
        buffer = run.buffers.train[type]
        assert buffer[0].program == tasks.IDENTITY and 1 < len(buffer) <= 6
        assert len({repr((task.program, task.inputs)) for task in buffer}) == len(buffer)
        assert all(task.type == type and task.step == 0 for task in buffer)
    pairs = [[(task.program, task.inputs) for task in run.buffers.train[name]] for name in ("deduction", "abduction")]
    assert pairs[0] == pairs[1]


def test_a_valid_task_whose_prompts_would_not_fit_is_not_kept(run, monkeypatch):
    """Shown as a reference it would be longer than as a question, and end the run at every resume."""
    long = "def f(x):\n    return x + [1]"
    text = f"int</think><answer>```python\n{long}\n```\n```input\n{[1] * 125}\n```</answer>"
    row = Row("propose", "propose", "deduction", "", [1], sample=Sample([1], [0.0], "stop"), text=text)
    train.note_gate(run, [row])
    assert row.task is None and row.verdict == "prompt too long"


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


@pytest.mark.quick
def test_the_solver_learns_while_every_proposal_fails(run, monkeypatch):
    monkeypatch.setattr(tasks, "gate", lambda proposals, *rest: [tasks.Gated(None, "no code block")] * len(proposals))
    run.cfg = replace(run.cfg, solve_tasks="probes", invalid_reward=-0.5)
    rows, metrics = train_step(run)
    assert Counter(row.type for row in rows if row.kind == "solve") == dict.fromkeys(run.cfg.types, 3 * 3)
    assert {row.reward for row in rows if row.kind == "propose"} <= {-0.5, -1.0}
    assert any(row.advantage for row in rows if row.role == "solve") and metrics["grad_norm"] > 0


def test_copies_of_what_a_proposer_was_shown_are_refused(run):
    shown = run.buffers.train["deduction"][0]
    names = str.maketrans({"x": "y"})
    for program, verdict in ((shown.program, "copy"), (shown.program.translate(names), "copy"),
                             (tasks.EXAMPLE, "copy"), ("def f(x):\n    return x - 77", "valid")):
        text = f"so</think><answer>```python\n{program}\n```\n```input\n{'1, 2' if 'b' in program else 5}\n```</answer>"
        row = Row("propose", "propose", "deduction", "", [1], references=[shown], sample=Sample([1], [0.0], "stop"),
                  text=text)
        run.cfg.refuse_copies, run.cfg.heldout_fraction = True, 0.0
        train.note_gate(run, [row])
        assert row.verdict == verdict and (row.task is None) == (verdict == "copy")
        run.cfg.refuse_copies = False
        train.note_gate(run, [row])
        assert row.verdict == "valid"


def test_responses_end_at_their_answer(run):
    rows, _ = train_step(run)
    ended = [row for row in rows if row.sample.finish == "stop" and "</answer>" in row.text]
    assert len(ended) > len(rows) / 2 and all(row.text.endswith("</answer>") for row in ended)
    run.style = replace(run.style, stops=())
    again, _ = train_step(run)
    assert max(len(row.sample.ids) for row in again) >= max(len(row.sample.ids) for row in rows)
    assert not any(row.text.endswith("</answer>") and row.sample.finish == "stop"
                   and row.sample.ids[-1] not in run.policy.stop_ids for row in again)


@pytest.mark.quick
def test_a_run_goes_on_from_its_checkpoint_as_if_it_had_never_stopped(executor, tmp_path):
    cfg = config(batch_size=2, n_probes=2, max_new_tokens=60, heldout_tasks=None)

    def begin() -> Training:
        run, _ = train.start(cfg, tmp_path, executor)
        return run
    run = begin()
    for type in tasks.TYPES.values():
        run.buffers.add(tasks.identity_task(type, 6))
    steps = []
    for run.step in (1, 2):
        if run.step == 2:
            runfolder.save_checkpoint(replace(run, step=1), [0, 0])
        rows, metrics = train_step(run)
        steps.append((told(rows), metrics["grad_norm"]))
    again = begin()
    assert again.step == 1
    again.step = 2
    rows, metrics = train_step(again)
    assert (told(rows), metrics["grad_norm"]) == steps[1]
    assert all(torch.equal(a, b) for a, b in zip(weights(run), weights(again)))
    assert again.buffers.to_json() == run.buffers.to_json()


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
    run.heldout_keys = {known[-1].key}
    assert 0 < len(train.given_tasks(run)) < len(known) and not any(task.heldout for task in train.given_tasks(run))
    path.write_text("".join(json.dumps(tasks.task_to_json(task)) + "\n" for task in known if task.type != "induction"))
    with pytest.raises(UserError, match="no induction task"):
        train.given_tasks(run)
    path.write_text(json.dumps(tasks.task_to_json(known[0])) + "\n")
    run.cfg.max_prompt_tokens = 5
    with pytest.raises(UserError, match="line 1: its prompts are longer"):
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
    run.micro_tokens = padded_tokens(run, [long]) // 3
    with pytest.raises(torch.OutOfMemoryError, match="one response alone is too long"):
        train.backward(run, rows, torch.ones(len(rows)))


def rewarded_rows(role: str, values: list[float]) -> list[Row]:
    task = tasks.identity_task(tasks.DEDUCTION)
    return [Row(role, role, "deduction" if i % 2 else "induction", "", [1], task=task,
                sample=Sample([1], [0.0], "stop"), well_formed=True, reward=value) for i, value in enumerate(values)]


def test_controls_take_only_what_a_reward_tells(run):
    valid, solves = rewarded_rows("propose", [i / 100 for i in range(100)]), rewarded_rows("solve", [1.0] * 1000)
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
    run.cfg.control, valid[1].well_formed = "form", False
    train.take_control(run, valid, solves)
    assert {row.reward for row in solves[1:]} == {row.reward for row in valid[2:]} == {1.0}
    assert solves[0].reward == valid[1].reward == -1.0


def test_the_learning_rate_falls_on_a_straight_line(run):
    run.cfg.lr, run.cfg.lr_final, run.cfg.steps = 1.0, 0.2, 5
    run.optimizer, rates = train.make_optimizer(run.cfg, run.policy), []
    for step in range(1, 6):
        train.set_rate(run.optimizer, run.cfg, step)
        rates.append(run.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])

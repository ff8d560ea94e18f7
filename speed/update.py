"""The update against peft's forward pass with full logits, and what fits into the memory of usual cards."""
import random
import statistics
from types import SimpleNamespace

import torch

import cards
from model import LOGIT_BUDGET, Policy, load_policy, logprobs
from speed.measure import SHAPES, both_models, peak_memory, seconds, shape_config, weight_bytes


def ours(policy: Policy, rows: list, args) -> None:
    """A prompt at a time; the baseline runs a response at a time."""
    for first in range(0, len(rows), args.update_n):
        logp_N, _ = logprobs(policy, rows[first:first + args.update_n])
        (logp_N.mean() * args.update_n).backward()


def full_logits(policy: Policy, rows: list, args) -> None:
    for prompt, response in rows:
        text = torch.tensor([prompt + response], device=args.device)
        logits = policy.model(input_ids=text, use_cache=False).logits[:, :-1].float()
        logp = logits.log_softmax(-1).gather(-1, text[:, 1:, None])[0, len(prompt) - 1:, 0]
        logp.mean().backward()


def take_gradient(policy: Policy) -> torch.Tensor:
    gradient = torch.cat([p.grad.flatten() for p in policy.trained()]).double()
    policy.model.zero_grad()
    return gradient


def prepare(policy: Policy, args) -> None:
    policy.checkpoint_layers = args.checkpoint_layers
    if args.checkpoint_layers:
        policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        policy.model.enable_input_require_grads()
        policy.model.train()
    torch.manual_seed(1)
    for parameter in policy.trained():  # B starts at 0, and A's gradient with it
        torch.nn.init.normal_(parameter, std=0.01)


def update(args) -> dict:
    policy, _ = both_models(args)
    prepare(policy, args)
    rng = random.Random(args.seed)
    ids = lambda count: [rng.randrange(3, policy.config.vocab_size) for _ in range(count)]
    prompts = [ids(args.update_prompt) for _ in range(args.update_rows)]
    rows = [(prompt, ids(args.update_response)) for prompt in prompts for _ in range(args.update_n)]
    tokens = sum(len(prompt) + len(response) for prompt, response in rows)
    times, peaks, gradients = {ours: [], full_logits: []}, {ours: [], full_logits: []}, {}
    if args.compile or args.device == "cuda":
        print(f"  first pass {seconds(args.device, lambda: ours(policy, rows, args)):.1f} s")
        full_logits(policy, rows, args)
        policy.model.zero_grad()
    for _ in range(args.repeats):
        for side in times:
            peaks[side].append(peak_memory(args.device, lambda: times[side].append(
                seconds(args.device, lambda: side(policy, rows, args)))))
            gradients[side] = take_gradient(policy)
    held = weight_bytes(policy)
    (took, base_took), (peak, base_peak) = (map(statistics.median, sides.values()) for sides in (times, peaks))
    figures = {"ratio": base_took / took, "tokens_per_second": tokens / took,
               "baseline_tokens_per_second": tokens / base_took,
               "memory_ratio": (peak + held) / (base_peak + held), "peak_gb": peak / 2**30,
               "baseline_peak_gb": base_peak / 2**30, "weights_gb": held / 2**30,
               "gradient_cosine": float(torch.cosine_similarity(*gradients.values(), dim=0)),
               "seconds": times[ours], "baseline_seconds": times[full_logits], "response_tokens": args.update_response,
               "responses_to_a_prompt": args.update_n}
    print(f"update: {args.update_rows} prompts of {args.update_prompt} tokens, {args.update_n} responses of"
          f" {args.update_response} to each, {args.dtype},"
          f" layers {'recomputed' if args.checkpoint_layers else 'kept'} in both\n"
          f"  ours {tokens / took:,.1f} tokens/s, peft and full logits {tokens / base_took:,.1f}:"
          f" {figures['ratio']:.2f} times; peak beside"
          f" {held / 2**30:.2f} GB of weights {peak / 2**30:.2f} against {base_peak / 2**30:.2f} GB, with weights"
          f" {figures['memory_ratio']:.2f} of it; cosine of the gradients {figures['gradient_cosine']:.5f}")
    return figures


def memory(args) -> dict:
    """What fits into cards of 24, 48 and 141 GB, by arithmetic: weights, adapter with AdamW and gradients, keys and
    values of one slot at --length positions, the update's activations for one row of --length tokens with layers
    recomputed and, compiled, with layers kept."""
    config = load_policy(args.model).config if args.model else shape_config(args.shape)
    if args.model:
        V, D, L, H, K, I = (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads,
                            config.num_key_value_heads, config.intermediate_size)
        tied = config.tie_word_embeddings
    else:
        V, D, L, H, K, I, tied = SHAPES[args.shape]
    C, gb = D // H, 2**30
    linear = L * (2 * D * D + 2 * D * K * C + 3 * D * I)
    embedding = V * D * (1 if tied else 2)
    adapter = 16 * L * (4 * D + 2 * (D + K * C) + 3 * (D + I))
    kv = 2 * 2 * L * K * C * args.length / gb
    row = (2 * args.length * (L * D + 12 * D + 6 * I) + 4 * LOGIT_BUDGET["cuda"]) / gb
    kept = args.length * cards.update_bytes(SimpleNamespace(config=config, dtype=torch.bfloat16, compile=True), False)
    kept = (kept + 4 * LOGIT_BUDGET["cuda"]) / gb
    figures, trained = {}, 16 * adapter / gb
    print(f"memory of {args.model or args.shape}: adapter, gradients and AdamW {trained:.2f} GB; keys and values of a"
          f" slot of {args.length} positions {kv:.3f} GB; update of one row of {args.length} tokens {row:.2f} GB")
    for name, size in (("bf16", 2.0), ("nf4", 0.5625)):  # NF4: 4 bits and a scale of 32 bits for 64 weights
        weights = (2 * embedding + size * linear) / gb
        for card in (24, 48, 141):
            free = card * 0.93 - weights - trained  # 7%: CUDA context, fragmentation
            slots, rows, whole = (max(0, int(share)) for share in (free * 0.9 / kv, free / row, free / kept))
            figures[f"{name}.{card}gb"] = {"weights_gb": weights, "slots": slots, "update_tokens": rows * args.length,
                                           "update_tokens_kept": whole * args.length}
            print(f"  {name}, {card} GB: weights {weights:.1f} GB; {slots} slots in generation;"
                  f" {rows * args.length:,} tokens per micro-batch in the update, {whole * args.length:,} with layers"
                  " kept")
    return figures

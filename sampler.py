"""
The sampler: one continuous batch. A rollout has a number of slots, each of which decodes one response; `add` queues
requests while `advance` decodes, what ends makes room for what waits, and nothing is padded. `generate` does both for
a list of prompts. It runs model.py's forward pass, so the log-probs noted here are those the update recomputes.

Reading order: Sample to Rollout, `start_rollout`, `add`, `advance`, `generate`, and what `advance` does in turn: from
the queue into slots (`refill`), a token for every row (`decode_step`, `draw`), out of the slots (`look`, `harvest`).
Behind them the memory for keys and values, and CUDA graphs.

Dimension suffixes, besides model.py's: B slots, N tokens of one response, C (in `draw`) chunks of the vocabulary.
"""
import math
import random
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from loading import ModelError
from model import KV, Packed, Policy, forward, fused, head_logits, nf4, pack, pad, pick_logp, scaled, to_device

PREFILL_TOKENS = 8192  # prompt tokens per prefill call
# Tokens of a shared beginning that are worth a call of their own; beginnings kept. Chat prompts of three kinds to the
# 0.5B model, 16 with 9,083 tokens in all, took 13.5 s to prefill in place of 23.4 (one core, bf16); of one kind, 1.5
# (short questions to the solver) to 2.3 times less.
SHORTEST_PREFIX, MOST_PREFIXES = 64, 16
CHUNK = 128            # tokens whose probabilities `draw` adds up first


@dataclass
class Sample:
    """One response. `ids` ends with the stop token, or with the token that completed a stop text, if there was one; ids
    and logps go to the update as they are."""
    ids: list[int]
    logps: list[float]  # log-prob of each id under the distribution it was drawn from (temperature 0: under T = 1)
    finish: str         # "stop" or "length"; in train.py "given", where nothing was sampled


@dataclass(eq=False)
class Request:
    """n responses wanted to one prompt."""
    prompt: list[int]
    limits: list[int]            # most tokens of each response
    tag: object                  # the caller's
    stops: tuple[str, ...]       # texts that end a response with the token that completes them
    uniform_NT: Tensor | None    # what the draws of each token are made from: samples do not depend on the schedule
    waiting: int                 # responses not finished


@dataclass(eq=False)
class Sequence:
    """One response being decoded, or waiting for a slot. `sample` holds tokens only where it had to leave its slot for
    a while."""
    request: Request
    index: int
    sample: Sample
    since: int = 0  # steps the rollout had made when it took its slot
    seen: int = 0   # tokens that it had at the last look
    tail: str = ""  # the end of its text, as far as a stop may have begun in it
    stopped: bool = False  # by one of the request's stops

    def text(self) -> list[int]:
        return self.request.prompt + self.sample.ids


@dataclass
class State:
    """What a decode step reads and writes, on the device; the first dimension is the slots."""
    tok_B: Tensor       # the token to run next
    pos_B: Tensor       # its position
    count_B: Tensor     # tokens made
    limit_B: Tensor     # tokens wanted at most
    done_B: Tensor
    uniform_BN: Tensor  # column t decides token t
    ids_BN: Tensor      # the responses so far; one column more than tokens, for rows that are done
    logp_BN: Tensor
    seen_B: Tensor      # tokens made when `look` was there last


@dataclass(eq=False)
class DeviceMemory:
    """What CUDA graphs read and write, at addresses that stay: with graphs it is the policy's (`Policy.device_memory`),
    and the next rollout that it is large enough for takes it over, graphs and all."""
    state: State
    stops: Tensor
    flat_L2: Tensor              # memory for keys and values, laid out anew as rows get longer
    packed: dict[tuple, Packed]  # by merge, adapter_on
    graphs: dict[tuple, object]  # by rows and what else they were captured with
    user: Callable = lambda: None  # the rollout that uses it, weakly


@dataclass(eq=False)
class Rollout:
    """All state of one continuous batch. Rows 0..len(rows)-1 are live and rows[b] is written by slot b."""
    policy: Policy
    slots: int
    max_length: int              # longest prompt + response
    max_new_tokens: int
    temperature: float
    seed: int
    kv_bytes: float
    read_every: int              # decode steps between two readings of the done flags
    ahead: int                   # the last of them, which run while what was before them is read
    share_prefix: bool
    memory: DeviceMemory | None  # None: no graphs
    packed: Packed | None
    stops: Tensor
    state: State
    cache_L: list[KV]            # [slots, K, length, C]: row b holds positions 0..pos_b of its own text, nothing else
    queue: deque[Sequence] = field(default_factory=deque)
    rows: list[Sequence] = field(default_factory=list)
    prefixes: dict[tuple, list[KV]] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)  # of single tokens, where stops are looked for
    split: tuple = (None, None)  # the prompt whose responses did not all find a slot, and its keys and values
    requests: int = 0
    steps: int = 0
    made: int = 0                # tokens decoded, with those that rows made past their ends

    def length(self) -> int:
        """Positions that the cache has room for."""
        return self.cache_L[0][0].shape[2]


@torch.no_grad()  # not inference mode: stacks may take the place of the modules' weights, which gradients go through
def start_rollout(policy: Policy, slots: int = 64, max_length: int = 4096, max_new_tokens: int = 1024,
                  temperature: float = 1.0, seed: int = 0, kv_gb: float = 4.0, merge: bool | None = None,
                  packed: bool = True, share_prefix: bool = True, graphs: bool | None = None,
                  read_every: int | None = None, ahead: int | None = None) -> Rollout:
    """An empty rollout that samples from the policy as it is now.

    `max_length` bounds prompt + response, `max_new_tokens` the response. Switches, None being what pays: `merge` LoRA
    into the sampling weights (the policy's; else in fp32 on a CPU, where that is exact enough), `packed` weights,
    `share_prefix`, CUDA `graphs`, `read_every` steps (1 on a CPU, where reading is free; 8 on CUDA), and do so `ahead`
    steps before they are done (2 with graphs: the device has work while the host frees and fills slots)."""
    cuda = policy.device.type == "cuda"
    if merge is None:
        merge = policy.dtype == torch.float32 and not cuda if policy.merge is None else policy.merge
    if graphs is None:
        graphs = cuda and packed and policy.compile and not nf4(policy)  # --compile False leaves both out
    memory = take_memory(policy, slots, max_length, max_new_tokens, kv_gb * 2**30) if graphs else None
    weights = pack(policy, merge, slots, memory and memory.packed.get((merge, policy.adapter_on))) if packed else None
    rollout = Rollout(policy, slots, max_length, max_new_tokens, temperature, seed, kv_gb * 2**30,
                      read_every or (8 if cuda else 1), (2 if graphs and cuda else 0) if ahead is None else ahead,
                      share_prefix, memory, weights,
                      memory.stops if graphs else stop_tensor(policy),
                      memory.state if graphs else new_state(policy, slots, max_new_tokens + 1),
                      [None] * len(policy.decoder.layers))
    if graphs:
        memory.packed[merge, policy.adapter_on], memory.user = weights, weakref.ref(rollout)
    # With graphs the worst case at once if it fits; else rows start short and the cache grows, at the cost of slots.
    resize(rollout, max_length if graphs and capacity(rollout, max_length) == slots else bucket(rollout, 1))
    return rollout


def new_state(policy: Policy, slots: int, columns: int) -> State:
    def zeros(*shape, dtype=torch.long) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=policy.device)
    return State(zeros(slots), zeros(slots), zeros(slots), zeros(slots), ~zeros(slots, dtype=torch.bool),
                 zeros(slots, columns, dtype=torch.float64), zeros(slots, columns),
                 zeros(slots, columns, dtype=torch.float32), zeros(slots))


def add(rollout: Rollout, prompt: list[int], n: int = 1, limit: int | list[int] | None = None, tag=None,
        key: str | None = None, stops: tuple[str, ...] = ()) -> Request:
    """Queues n responses to a prompt; `limit` is the most tokens of each, or of all. Their draws are fixed by the
    rollout's seed and `key` (the request's number if not given). Each ends at a stop token or at one of the texts
    `stops`. Raises ValueError."""
    most = rollout.max_new_tokens
    limits = limit if isinstance(limit, list) else [limit or most] * n
    if not prompt or len(prompt) + max(limits) > rollout.max_length or not 0 < min(limits) <= max(limits) <= most:
        raise ValueError(f"prompts must have 1 to {rollout.max_length - max(limits)} tokens here, not {len(prompt)}")
    request = Request(prompt, limits, tag, stops, None, n)
    if rollout.temperature:
        source = random.Random(f"{rollout.seed} {rollout.requests if key is None else key}")
        noise = torch.Generator().manual_seed(source.getrandbits(63))
        request.uniform_NT = torch.rand(n, max(limits), generator=noise, dtype=torch.float64)
    rollout.requests += 1
    rollout.queue.extend(Sequence(request, j, Sample([], [], "length")) for j in range(n))
    return request


def idle(rollout: Rollout) -> bool:
    return not rollout.rows and not rollout.queue


@torch.inference_mode()
def advance(rollout: Rollout) -> list[tuple[Request, int, Sample]]:
    """Refills free slots from the queue, decodes `read_every` tokens for every live row, and returns what finished as
    (request, which of its responses, sample). What it does depends on the calls so far and never on time."""
    refill(rollout)
    top = max((position(rollout, sequence) for sequence in rollout.rows), default=0) + rollout.read_every
    top, finished, seen = min(top, rollout.max_length), [], None  # a row that would go on beyond it is done by then
    if top > rollout.length():
        if rollout.ahead:  # what `make_room` sends back must not be done
            finished = harvest(rollout, look(rollout))
        make_room(rollout, bucket(rollout, top))
    if not rollout.rows:
        return finished
    for step in range(rollout.read_every):
        if step == rollout.read_every - rollout.ahead:
            seen = look(rollout)
        if rollout.memory is None:
            decode_step(rollout, len(rollout.rows), min(top, rollout.length()))
        else:
            replay(rollout)
    seen = seen or look(rollout)
    rollout.steps += rollout.read_every
    rollout.made += len(rollout.rows) * rollout.read_every
    return finished + harvest(rollout, seen)


def generate(policy: Policy, prompts: list[list[int]], n: int = 1, max_new_tokens: int = 256, temperature: float = 1.0,
             seed: int = 0, slots: int = 64, kv_gb: float = 4.0, progress: Callable[[int], None] | None = None,
             stops: tuple[str, ...] = (), **switches) -> list[list[Sample]]:
    """n responses to each prompt: result[i][j] is the j-th sample of prompts[i]. The seed fixes all draws. Only
    temperature shapes the distribution: top-p and top-k would bias the ratio in the update. `progress` is called with
    the tokens made so far; `switches` go to `start_rollout`. Raises ValueError."""
    if not prompts:
        return []
    longest = max(map(len, prompts)) + max_new_tokens
    if longest > policy.max_length:
        raise ValueError(f"prompts must have 1 to {policy.max_length - max_new_tokens} tokens here, not"
                         f" {longest - max_new_tokens}")
    samples = [[None] * n for _ in prompts]
    rollout = start_rollout(policy, min(slots, n * len(prompts)), longest, max_new_tokens, temperature, seed, kv_gb,
                            **switches)
    # Longest first: prompts prefilled together are of like length, and the most expensive ones do not come last.
    for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        add(rollout, prompts[i], n, tag=i, stops=stops)
    while not idle(rollout):
        for request, j, sample in advance(rollout):
            samples[request.tag][j] = sample
        if progress:
            progress(rollout.made)
    return samples


# ----------------------------------------------------------------------------------------------------------------
# From the queue into slots

def refill(rollout: Rollout) -> None:
    """Prefills and places what `admit` takes from the queue: the fresh responses to a prompt together, and if there was
    no slot for the last of them, its keys and values are kept for them."""
    groups: dict[tuple, list[Sequence]] = {}
    for sequence in admit(rollout):
        groups.setdefault((sequence.request, sequence.index if sequence.sample.ids else None), []).append(sequence)
    groups = list(groups.values())
    for batch, *pieces in prefill(rollout, [group[0].text()[:-1] for group in groups]):
        place(rollout, [groups[i] for i in batch], *pieces)
    if groups:
        first, queue, rollout.split = groups[-1][0], rollout.queue, (None, None)
        if queue and queue[0].request is first.request and not queue[0].sample.ids:
            b, last = rollout.rows.index(first), len(first.request.prompt) - 1
            kept_L = [tuple(tensor[b:b + 1, :, :last].clone() for tensor in layer) for layer in rollout.cache_L]
            rollout.split = first.request.prompt[:last], kept_L


def admit(rollout: Rollout) -> list[Sequence]:
    """Takes from the queue what there is room for, an eighth of the slots at a time: prefilling one by one is slow. The
    cache grows where one of them needs it, and shrinks where that makes room for more."""
    live, length, queue, admitted = len(rollout.rows), rollout.length(), rollout.queue, []
    fits = capacity(rollout, length)
    if not queue or (live and (fits - live) * 8 < fits):
        return []
    if not live and fits < rollout.slots:
        length = bucket(rollout, 1)
    while queue:
        needed = len(queue[0].text()) + rollout.read_every
        longer = length if needed <= length else bucket(rollout, needed)
        if live + len(admitted) >= capacity(rollout, longer):
            break
        length = longer
        admitted.append(queue.popleft())
    if admitted and length != rollout.length():
        resize(rollout, length)
    return admitted


def place(rollout: Rollout, groups: list[list[Sequence]], *pieces: tuple[int, list[KV]]) -> None:
    """Sequences, those of a group with one text, into the next free slots; the first step runs a text's last token.
    Each of the pieces is (first position, keys and values from there on) of all texts or, with one row, of each."""
    state, device, first = rollout.state, rollout.policy.device, len(rollout.rows)
    source, sequences = zip(*((i, sequence) for i, group in enumerate(groups) for sequence in group))
    slots, source = slice(first, first + len(sequences)), to_device(source, device)
    for start, kv_L in pieces:
        for layer, kv in zip(rollout.cache_L, kv_L):
            for old, new in zip(layer, kv):
                old[slots, :, start:start + new.shape[2]] = new if len(new) in (1, len(source)) else new[source]
    texts = [sequence.text() for sequence in sequences]
    numbers = [(text[-1], len(text) - 1, sequence.request.limits[sequence.index], *[len(sequence.sample.ids)] * 2)
               for text, sequence in zip(texts, sequences)]
    for tensor, new in zip((state.tok_B, state.pos_B, state.limit_B, state.count_B, state.seen_B),
                           to_device(numbers, device).T):
        tensor[slots] = new
    state.done_B[slots] = False
    if rollout.temperature:
        uniform_BN = pad_sequence([sequence.request.uniform_NT[sequence.index] for sequence in sequences], True)
        state.uniform_BN[slots, :uniform_BN.shape[1]] = uniform_BN.to(device, non_blocking=True)
    for b, sequence in enumerate(sequences, first):
        made = sequence.sample
        if made.ids:
            state.ids_BN[b, :len(made.ids)] = torch.tensor(made.ids, device=device)
            state.logp_BN[b, :len(made.ids)] = torch.tensor(made.logps, device=device)
        sequence.since, sequence.seen = rollout.steps, len(made.ids)
        rollout.rows.append(sequence)


def prefill(rollout: Rollout, texts: list[list[int]]) -> Iterator[tuple]:
    """Yields (indices of texts, *pieces as `place` wants them). Texts of like length behind the same beginning run
    together, at most PREFILL_TOKENS at a time so that few are held at once."""
    order = list(range(len(texts)))
    if rollout.split[0] in texts:
        yield [order.pop(texts.index(rollout.split[0]))], (0, rollout.split[1])
    prefixes = find_prefixes(rollout, texts)
    own = [len(text) - len(prefix) for text, prefix in zip(texts, prefixes)]
    order.sort(key=lambda i: (prefixes[i], -own[i]))
    while order:
        prefix, longest, count = prefixes[order[0]], own[order[0]], 1
        if not longest:  # a prompt of one token
            yield [order.pop(0)],
            continue
        while (count < min(len(order), PREFILL_TOKENS // longest) and prefixes[order[count]] == prefix
               and 4 * own[order[count]] >= 3 * longest):  # a quarter is padding at most
            count += 1
        batch, order, kept = order[:count], order[count:], []
        ids_BT, pos_BT = pad([texts[i][len(prefix):] for i in batch], rollout.policy.device)
        shared_L = rollout.prefixes.get(prefix)
        forward(rollout.policy, ids_BT, pos_BT + len(prefix), keep=kept, packed=rollout.packed, prefix_L=shared_L)
        yield batch, *([(0, shared_L)] if prefix else []), (len(prefix), kept)


def find_prefixes(rollout: Rollout, texts: list[list[int]]) -> list[tuple]:
    """For each text the beginning that it shares with others, () if there is none; its keys and values are in the
    rollout's store, where new ones go. Of all beginnings that the waiting texts have in common with it, the one that
    saves most tokens: instructions, rather than instructions and an example that two of them share."""
    if not rollout.share_prefix:
        return [()] * len(texts)
    waiting = {id(sequence.request): sequence.request.prompt for sequence in rollout.queue}
    alike = defaultdict(list)  # only texts with the same first tokens are compared
    for text in (*texts, *waiting.values()):
        alike[tuple(text[:SHORTEST_PREFIX])].append(text)
    return [find_prefix(rollout, text, alike[tuple(text[:SHORTEST_PREFIX])]) for text in texts]


def find_prefix(rollout: Rollout, text: list[int], alike: list[list[int]]) -> tuple:
    known = [prefix for prefix in rollout.prefixes if len(prefix) < len(text) and tuple(text[:len(prefix)]) == prefix]
    if known or len(rollout.prefixes) >= MOST_PREFIXES:
        return max(known, key=len, default=())
    shared = sorted((common(text[:-1], other) for other in alike if other is not text), reverse=True)
    _, length = max(((number * length, length) for number, length in enumerate(shared, 1)), default=(0, 0))
    if length < SHORTEST_PREFIX:
        return ()
    prefix, kept = tuple(text[:length]), []
    forward(rollout.policy, *pad([list(prefix)], rollout.policy.device), keep=kept, packed=rollout.packed)
    rollout.prefixes[prefix] = kept
    return prefix


def common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


# ----------------------------------------------------------------------------------------------------------------
# A token for every row

def decode_step(rollout: Rollout, rows: int, length: int) -> None:
    """One token for each of the first `rows` slots, written on the device; nothing is read back. Rows that are done
    stand still: what they write, they write again."""
    tok_B, pos_B, count_B, limit_B, done_B, uniform_BN, ids_BN, logp_BN, _ = (
        tensor[:rows] for tensor in vars(rollout.state).values())
    policy, packed = rollout.policy, rollout.packed
    hidden_BTD = forward(policy, tok_B[:, None], pos_B[:, None], rollout.cache_L, length, packed=packed)
    logits_BV = head_logits(policy, hidden_BTD[:, 0], packed)
    if rollout.temperature:
        new_B, logp_B = fused(policy, draw, (logits_BV, uniform_BN.gather(1, count_B[:, None])), rollout.temperature)
    else:
        new_B = logits_BV.argmax(-1)
        logp_B = pick_logp(logits_BV.float(), new_B)
    ids_BN.scatter_(1, count_B[:, None], new_B[:, None])
    logp_BN.scatter_(1, count_B[:, None], logp_B[:, None])
    live_B = ~done_B
    tok_B.copy_(new_B)
    pos_B += live_B
    count_B += live_B
    done_B |= live_B & ((new_B[:, None] == rollout.stops).any(-1) | (count_B >= limit_B))


def draw(logits_BV: Tensor, uniform_B1: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """(ids_B, logp_B): a draw from softmax(logits / temperature) by one uniform number a row, in two stages of
    inversion: first which CHUNK of the vocabulary, then which token in it. Each chunk's maximum and its sum of
    exponentials below it come from one reading of the logits; of the second stage's only one chunk a row is read.
    Gumbel noise for every logit took half of a decode step of 0.5B on a CPU, and noise from outside the step is new in
    every replay of a graph. May overwrite the logits."""
    V = logits_BV.shape[1]
    x_BV = scaled(logits_BV, temperature)
    if V % CHUNK:
        x_BV = F.pad(x_BV, (0, -V % CHUNK), value=float("-inf"))
    x_BCW = x_BV.unflatten(1, (-1, CHUNK))
    top_BC1 = x_BCW.amax(-1, keepdim=True).clamp_(min=-1e30)
    p_BCW = x_BCW.sub_(top_BC1).exp_()  # of each token within its chunk, its most likely one having 1
    shift_BC = (top_BC1 - top_BC1.amax(1, keepdim=True))[..., 0]
    sum_BC = (p_BCW.sum(-1) * shift_BC.exp()).double()
    below_BC = sum_BC.cumsum(-1)
    total_B1 = below_BC[:, -1:]
    target_B1 = uniform_B1 * total_B1
    chunk_B1 = (below_BC <= target_B1).sum(-1, keepdim=True).clamp_(max=sum_BC.shape[1] - 1)
    rest_B1 = target_B1 - (below_BC - sum_BC).gather(1, chunk_B1)
    p_BW = p_BCW.gather(1, chunk_B1[..., None].expand(-1, -1, CHUNK))[:, 0]
    shift_B1 = shift_BC.gather(1, chunk_B1)
    inner_BW = p_BW.double().cumsum(-1)
    rest_B1 = torch.minimum(rest_B1 / shift_B1.exp(), inner_BW[:, -1:] * (1 - 1e-9)).clamp_(min=0)  # rounding
    place_B1 = (inner_BW <= rest_B1).sum(-1, keepdim=True)
    logp_B1 = p_BW.gather(1, place_B1).log() + shift_B1 - total_B1.log()
    return (chunk_B1 * CHUNK + place_B1)[:, 0], logp_B1[:, 0].float()


# ----------------------------------------------------------------------------------------------------------------
# Out of the slots

@dataclass
class Seen:
    """Copies of what the rows had come to at some point of the device's work, which may have gone on since."""
    flags_2B: Tensor       # tokens made; whether that was all
    new_BN: Tensor | None  # ids since the look before, if stops are to be found in them
    stream: torch.cuda.Stream | None  # for reading them without waiting for what is launched after the look


def look(rollout: Rollout) -> Seen:
    state, live, new_BN, stream = rollout.state, len(rollout.rows), None, None
    flags_2B = torch.stack((state.count_B[:live], state.done_B[:live].long()))
    if any(row.request.stops for row in rollout.rows):
        columns_BN = state.seen_B[:live, None] + torch.arange(rollout.read_every, device=state.ids_BN.device)
        new_BN = state.ids_BN[:live].gather(1, columns_BN.clamp_(max=state.ids_BN.shape[1] - 1))
        state.seen_B[:live] = state.count_B[:live]
    if rollout.ahead and state.ids_BN.is_cuda:
        stream = reading_stream()
        stream.wait_stream(torch.cuda.current_stream())
    return Seen(flags_2B, new_BN, stream)


@cache
def reading_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()  # one for all: each has memory of its own


def harvest(rollout: Rollout, seen: Seen) -> list[tuple[Request, int, Sample]]:
    with torch.cuda.stream(seen.stream):
        counts, done = seen.flags_2B.tolist()
        if seen.new_BN is not None:
            end_at_stops(rollout, seen.new_BN.tolist(), counts)
        ended = [b for b, row in enumerate(rollout.rows) if done[b] or row.stopped]
        samples = samples_of(rollout, ended, counts)
    for row, count in zip(rollout.rows, counts):
        row.seen = count
    finished = [(rollout.rows[b].request, rollout.rows[b].index, sample) for b, sample in zip(ended, samples)]
    for request, *_ in finished:
        request.waiting -= 1
        if not request.waiting:
            request.uniform_NT = None
    drop_rows(rollout, ended)
    return finished


def end_at_stops(rollout: Rollout, new: list[list[int]], counts: list[int]) -> None:
    """Rows whose newest tokens complete one of their stops have stopped, and `counts` leaves out what they sampled
    behind it. The text is put together from single tokens, so that a stop is found where it ends inside one."""
    for b, row in enumerate(rollout.rows):
        longest = max(map(len, row.request.stops), default=0)
        for made, id in enumerate(new[b][:counts[b] - row.seen] if longest else (), row.seen + 1):
            if id not in rollout.texts:
                rollout.texts[id] = rollout.policy.tokenizer.decode([id])
            row.tail += rollout.texts[id]
            if any(stop in row.tail for stop in row.request.stops):
                row.stopped, counts[b] = True, made
                break
            row.tail = row.tail[-longest:]


def samples_of(rollout: Rollout, rows: list[int], counts: list[int]) -> list[Sample]:
    """What these rows have made, in one reading of the device; `counts` has the tokens of all rows."""
    if not rows:
        return []
    counts = [counts[b] for b in rows]
    columns = torch.tensor(rows, device=rollout.policy.device), slice(max(counts))
    ids, logps = torch.stack((rollout.state.ids_BN[columns].double(), rollout.state.logp_BN[columns].double())).tolist()
    samples = [Sample([int(id) for id in ids[:n]], logps[:n], "length") for n, ids, logps in zip(counts, ids, logps)]
    for b, sample in zip(rows, samples):
        if rollout.rows[b].stopped or sample.ids and sample.ids[-1] in rollout.policy.stop_ids:
            sample.finish = "stop"
    if not math.isfinite(sum(sum(sample.logps) for sample in samples)):
        raise ModelError("log-probs in sampling are not finite (nan or inf): the model's weights are damaged, or"
                         " training has run away and a new run with a lower --lr may hold")
    return samples


def drop_rows(rollout: Rollout, gone: list[int]) -> None:
    """Frees slots; the last live rows move into them, so that live rows stay together."""
    state, were, live = rollout.state, len(rollout.rows), len(rollout.rows) - len(gone)
    holes = [b for b in gone if b < live]
    movers = sorted({*range(live, were)} - {*gone})
    if holes:
        used, pairs = max(position(rollout, rollout.rows[b]) for b in movers), list(zip(holes, movers))
        for hole, mover in pairs:
            rollout.rows[hole] = rollout.rows[mover]
        holes, movers = to_device([holes, movers], rollout.policy.device)
        if rollout.memory is None:
            for layer in (tensor for kv in rollout.cache_L for tensor in kv):
                layer[holes, :, :used] = layer[movers, :, :used]
        else:  # the bytes cost nothing on CUDA, each launch does: one a row in place of some for every layer
            all_L2 = laid_out(rollout.memory, rollout.cache_L[0][0].shape)
            for hole, mover in pairs:
                all_L2[:, :, hole, :, :used] = all_L2[:, :, mover, :, :used]
        for tensor in vars(state).values():
            tensor[holes] = tensor[movers]
    state.done_B[live:were] = True
    state.pos_B[live:were] = 0
    del rollout.rows[live:]


# ----------------------------------------------------------------------------------------------------------------
# The memory for keys and values

def position(rollout: Rollout, sequence: Sequence) -> int:
    """Of the token that the row runs next, known without reading the device; a row that is done may be short of it."""
    return len(sequence.request.prompt) + len(sequence.sample.ids) - 1 + rollout.steps - sequence.since


def bucket(rollout: Rollout, length: int) -> int:
    """A length from 256, 512, 768, 1024, 1280, 1536, 1920, ...: graphs and reallocations are few, and a quarter of
    what is read is wasted at most once rows are long."""
    size = 256
    while size < length:
        size += max(256, size // 4 // 128 * 128)
    return min(size, rollout.max_length)


def row_shape(policy: Policy, length: int) -> tuple[int, int, int]:
    return policy.config.num_key_value_heads, length, policy.decoder.layers[0].self_attn.head_dim


def capacity(rollout: Rollout, length: int) -> int:
    """Rows of that length that fit into the memory for keys and values; at least one."""
    policy = rollout.policy
    row_bytes = 2 * len(policy.decoder.layers) * math.prod(row_shape(policy, length)) * policy.dtype.itemsize
    return max(1, min(rollout.slots, int(rollout.kv_bytes / row_bytes)))


def resize(rollout: Rollout, length: int) -> None:
    """A cache of as many rows of `length` as fit, layer by layer so that old and new never both exist in full."""
    policy, live = rollout.policy, len(rollout.rows)
    shape = (capacity(rollout, length), *row_shape(policy, length))
    for index, layer in enumerate(rollout.cache_L):
        held = [old[:live, :, :length].clone() for old in layer] if live else []
        if rollout.memory is None:
            rollout.cache_L[index] = tuple(torch.zeros(shape, dtype=policy.dtype, device=policy.device) for _ in "kv")
        else:
            rollout.cache_L[index] = tuple(laid_out(rollout.memory, shape)[index])
        for new, old in zip(rollout.cache_L[index], held):
            new[:live, :, :old.shape[2]] = old


def laid_out(memory: DeviceMemory, shape: tuple[int, ...]) -> Tensor:
    """Its beginning as keys and values of all layers, [L, 2, *shape]."""
    return memory.flat_L2[..., :math.prod(shape)].unflatten(-1, shape)


def make_room(rollout: Rollout, length: int) -> None:
    """A longer cache. Rows that no longer fit, the shortest, go back to the queue with what they have; running them
    through the model again later is cheaper than to keep slots empty for the worst case."""
    order = sorted(range(len(rollout.rows)), key=lambda b: position(rollout, rollout.rows[b]))
    leave = sorted(order[:max(0, len(rollout.rows) - capacity(rollout, length))])
    for b, sample in zip(leave, samples_of(rollout, leave, rollout.state.count_B.tolist() if leave else [])):
        rollout.rows[b].sample = sample
    rollout.queue.extendleft(rollout.rows[b] for b in reversed(leave))
    drop_rows(rollout, leave)
    resize(rollout, length)


# ----------------------------------------------------------------------------------------------------------------
# CUDA graphs, and what lives as long as they

def take_memory(policy: Policy, slots: int, max_length: int, max_new_tokens: int, kv_bytes: float) -> DeviceMemory:
    """The policy's, if it is free and large enough; else that is given up and new memory takes its place."""
    numbers = math.prod(row_shape(policy, max_length)) * slots
    numbers = int(min(numbers, kv_bytes / (2 * len(policy.decoder.layers) * policy.dtype.itemsize)))
    stops, old = stop_tensor(policy), policy.device_memory
    if old and (old.user() is None or idle(old.user())) and torch.equal(old.stops, stops):
        rows, columns = old.state.ids_BN.shape
        if rows >= slots and columns > max_new_tokens and old.flat_L2.shape[-1] >= numbers:
            old.state.done_B.fill_(True)
            old.state.pos_B.zero_()
            return old
    policy.device_memory = old = None
    numbers = max(numbers, math.prod(row_shape(policy, max_length)))  # one row at least
    flat_L2 = torch.zeros(len(policy.decoder.layers), 2, numbers, dtype=policy.dtype, device=policy.device)
    policy.device_memory = DeviceMemory(new_state(policy, slots, max_new_tokens + 1), stops, flat_L2, {}, {})
    return policy.device_memory


def stop_tensor(policy: Policy) -> Tensor:
    return torch.tensor(sorted(policy.stop_ids), dtype=torch.long, device=policy.device)


def replay(rollout: Rollout) -> None:
    """`decode_step` of the live rows, or the next of a few numbers of rows, as a CUDA graph. Where one is missing all
    numbers are captured, the largest first: the others then find room in its memory."""
    most, live, graphs = len(rollout.cache_L[0][0]), len(rollout.rows), rollout.memory.graphs
    key = rollout.length(), rollout.temperature, rollout.policy.adapter_on, id(rollout.packed)
    rows = min(most, max(2, 1 << (live - 1).bit_length()) if live <= 32 else -(-live // 32) * 32)
    if (rows, *key) not in graphs:
        ladder = sorted({min(rows, most) for rows in (2, 4, 8, 16, *range(32, most + 32, 32))})
        tok_B, done_B = rollout.state.tok_B.clone(), rollout.state.done_B.clone()
        rollout.state.done_B.fill_(True)  # warming up, every row stands still
        for size in reversed(ladder):
            if (size, *key) not in graphs:
                graphs[size, *key] = capture(rollout, size)
        rollout.state.tok_B.copy_(tok_B)
        rollout.state.done_B.copy_(done_B)
    graphs[rows, *key].replay()


def capture(rollout: Rollout, rows: int) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # a first run compiles
        decode_step(rollout, rows, rollout.length())
    torch.cuda.current_stream().wait_stream(side)
    graph, living = torch.cuda.CUDAGraph(), next(iter(rollout.memory.graphs.values()), None)
    with torch.cuda.graph(graph, pool=living and living.pool()):
        decode_step(rollout, rows, rollout.length())
    return graph

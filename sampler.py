"""
The sampler: one rollout decodes many requests at once (continuous batching). It is fed with `add` while `advance`
decodes; `generate` does both for a list of prompts.
"""
import random
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model import Cache, Policy, encode, fill, forward, logits_of, pack, pad, pick_logp

PREFILL_TOKENS = 8192  # prompt tokens per prefill call
SHORTEST_PREFIX, MOST_PREFIXES = 32, 16  # tokens of a shared beginning worth a call of its own; beginnings kept
CHUNK = 128            # tokens whose probabilities `draw` adds up first


@dataclass
class Sample:
    """One response. `ids` ends with the stop token if there was one; ids and logps go to the update as they are."""
    ids: list[int]
    logps: list[float]  # log-prob of each id under the distribution it was drawn from (temperature 0: under T = 1)
    finish: str         # "stop" or "length"


@dataclass(eq=False)
class Request:
    """n responses wanted to one prompt."""
    prompt: list[int]
    limits: list[int]            # most tokens of each response
    tag: object                  # the caller's
    uniform_NT: Tensor | None    # what the draws of each token are made from: samples do not depend on the schedule
    waiting: int                 # responses not finished


@dataclass(eq=False)
class Draft:
    """One response in the making. `sample` holds tokens only where the row had to leave its slot for a while."""
    request: Request
    index: int
    sample: Sample
    since: int = 0  # steps the rollout had made when the draft took its slot

    def text(self) -> list[int]:
        return self.request.prompt + self.sample.ids


@dataclass(eq=False)
class Rollout:
    """All state of one continuous batch. Rows 0..len(rows)-1 are live and rows[b] is written by slot b; the state of a
    slot is on the device and read back every `read_every` steps."""
    policy: Policy
    slots: int
    max_length: int              # longest prompt + response
    temperature: float
    seed: int
    kv_bytes: float
    read_every: int              # decode steps between two readings of the done flags
    share_prefix: bool
    graphs: dict | None          # (rows, length) -> captured CUDA graph; None: no graphs
    packed: list[dict] | None
    stops: Tensor
    cache: Cache
    tok_B: Tensor                # the token to run next
    pos_B: Tensor                # its position
    count_B: Tensor              # tokens made
    limit_B: Tensor              # tokens wanted at most
    done_B: Tensor
    uniform_BN: Tensor           # column t decides token t
    ids_BN: Tensor               # the responses so far; one column more than tokens, for rows that are done
    logp_BN: Tensor
    queue: deque = field(default_factory=deque)
    rows: list[Draft] = field(default_factory=list)
    prefixes: dict[tuple, list] = field(default_factory=dict)
    half: tuple = (None, None)   # the request whose samples did not all find a slot: its keys and values
    requests: int = 0
    steps: int = 0
    made: int = 0                # tokens decoded, with those that rows made past their ends

    def length(self) -> int:
        """Positions that the cache has room for."""
        return self.cache.k_L[0].shape[2]


@torch.no_grad()  # not inference mode: stacks may take the place of the modules' weights, which gradients go through
def start_rollout(policy: Policy, slots: int = 64, max_length: int = 4096, max_new_tokens: int = 1024,
                  temperature: float = 1.0, seed: int = 0, kv_gb: float = 4.0, merge: bool | None = None,
                  packed: bool = True, share_prefix: bool = True, graphs: bool | None = None,
                  read_every: int | None = None) -> Rollout:
    """An empty rollout that samples from the policy as it is now.

    `max_length` bounds prompt + response, `max_new_tokens` the response. Switches, None being what pays: `merge` LoRA
    into the sampling weights (fp32 on a CPU, where that is exact enough), `packed` weights, `share_prefix`,
    CUDA `graphs`, `read_every` steps (1 on a CPU, where reading is free; 8 on CUDA)."""
    cuda = policy.device.type == "cuda"
    if merge is None:
        merge = policy.dtype == torch.float32 and not cuda
    if graphs is None:
        graphs = cuda and packed and policy.compile  # --compile False leaves both out
    weights = pack(policy, merge, slots) if packed else None

    def zeros(*shape, dtype=torch.long) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=policy.device)
    layers, columns = len(policy.decoder.layers), max_new_tokens + 1
    rollout = Rollout(policy, slots, max_length, temperature, seed, kv_gb * 2**30, read_every or (8 if cuda else 1),
                      share_prefix, {} if graphs and weights else None, weights,
                      torch.tensor(sorted(policy.stop_ids), dtype=torch.long, device=policy.device),
                      Cache([None] * layers, [None] * layers),
                      zeros(slots), zeros(slots), zeros(slots), zeros(slots), ~zeros(slots, dtype=torch.bool),
                      zeros(slots, columns, dtype=torch.float64), zeros(slots, columns),
                      zeros(slots, columns, dtype=torch.float32))
    # With graphs the worst case at once if it fits; else rows start short and the cache grows, at the cost of slots.
    at_once = rollout.graphs is not None and capacity(rollout, max_length) == slots
    resize(rollout, max_length if at_once else bucket(rollout, 1))
    return rollout


def add(rollout: Rollout, prompt: list[int], n: int = 1, limit: int | list[int] | None = None, tag=None,
        key: str | None = None) -> Request:
    """Queues n responses to a prompt; `limit` is the most tokens of each, or of all. Their draws are fixed by the
    rollout's seed and `key` (the request's number if not given). Raises ValueError."""
    width = rollout.ids_BN.shape[1] - 1
    limits = limit if isinstance(limit, list) else [limit or width] * n
    if not prompt or len(prompt) + max(limits) > rollout.max_length or not 0 < min(limits) <= max(limits) <= width:
        raise ValueError(f"prompts must have 1 to {rollout.max_length - max(limits)} tokens here, not {len(prompt)}")
    request = Request(prompt, limits, tag, None, n)
    if rollout.temperature:
        source = random.Random(f"{rollout.seed} {rollout.requests if key is None else key}")
        noise = torch.Generator().manual_seed(source.getrandbits(63))
        request.uniform_NT = torch.rand(n, max(limits), generator=noise, dtype=torch.float64)
    rollout.requests += 1
    rollout.queue.extend(Draft(request, j, Sample([], [], "length")) for j in range(n))
    return request


def idle(rollout: Rollout) -> bool:
    return not rollout.rows and not rollout.queue


@torch.inference_mode()
def advance(rollout: Rollout) -> list[tuple[Request, int, Sample]]:
    """Refills free slots from the queue, decodes `read_every` tokens for every live row, and returns what finished as
    (request, which of its responses, sample). What it does depends on the calls so far and never on time."""
    refill(rollout)
    if not rollout.rows:
        return []
    live, top = len(rollout.rows), max(position(rollout, draft) for draft in rollout.rows) + rollout.read_every
    top = min(top, rollout.max_length)  # a row that would go on beyond it is done by then
    if top > rollout.length():
        make_room(rollout, bucket(rollout, top))
        live = len(rollout.rows)
    rows, length = live, min(top, rollout.length())
    if rollout.graphs is not None or rollout.policy.compile:
        rows, length = min(rollout.slots, max(2, 1 << (live - 1).bit_length())), bucket(rollout, length)
        rows, length = min(rows, rollout.cache.k_L[0].shape[0]), min(length, rollout.length())
    for _ in range(rollout.read_every):
        if rollout.graphs is None:
            decode_step(rollout, rows, length)
        else:
            replay(rollout, rows, length)
    rollout.steps += rollout.read_every
    rollout.made += live * rollout.read_every
    return harvest(rollout)


def position(rollout: Rollout, draft: Draft) -> int:
    """Of the token that the draft's row runs next, known without reading the device; a row that is done may be short of
    it."""
    return len(draft.request.prompt) + len(draft.sample.ids) - 1 + rollout.steps - draft.since


def bucket(rollout: Rollout, length: int) -> int:
    """A length from 256, 512, 768, 1024, 1280, 1536, 1920, ...: graphs and reallocations are few, and a quarter of
    what is read is wasted at most once rows are long."""
    size = 256
    while size < length:
        size += max(256, size // 4 // 128 * 128)
    return min(size, rollout.max_length)


def capacity(rollout: Rollout, length: int) -> int:
    """Rows of that length that fit into the memory for keys and values; at least one."""
    policy = rollout.policy
    row = (2 * len(policy.decoder.layers) * policy.config.num_key_value_heads * length
           * policy.decoder.layers[0].self_attn.head_dim * policy.dtype.itemsize)
    return max(1, min(rollout.slots, int(rollout.kv_bytes / row)))


def resize(rollout: Rollout, length: int) -> None:
    """A cache of as many rows of `length` as fit, layer by layer so that old and new never both exist in full."""
    policy, rows, live = rollout.policy, capacity(rollout, length), len(rollout.rows)
    shape = (rows, policy.config.num_key_value_heads, length, policy.decoder.layers[0].self_attn.head_dim)
    for layers in (rollout.cache.k_L, rollout.cache.v_L):
        for index, old in enumerate(layers):
            layers[index] = torch.zeros(shape, dtype=policy.dtype, device=policy.device)
            if live:
                used = min(length, old.shape[2])
                layers[index][:live, :, :used] = old[:live, :, :used]
    if rollout.graphs:
        rollout.graphs.clear()  # they hold the old addresses


def make_room(rollout: Rollout, length: int) -> None:
    """A longer cache. Rows that no longer fit, the shortest, go back to the queue with what they have; running them
    through the model again later is cheaper than to keep slots empty for the worst case."""
    fits = capacity(rollout, length)
    order = sorted(range(len(rollout.rows)), key=lambda b: position(rollout, rollout.rows[b]))
    leave = sorted(order[:max(0, len(rollout.rows) - fits)])
    for b in reversed(leave):
        draft = rollout.rows[b]
        draft.sample = read_sample(rollout, b)
        rollout.queue.appendleft(draft)
    drop_rows(rollout, leave)
    resize(rollout, length)


def refill(rollout: Rollout) -> None:
    """Drafts from the queue into free slots, an eighth of the slots at a time: prefilling one by one is slow."""
    rows, length, drafts, queue = rollout.rows, rollout.length(), [], rollout.queue
    if not queue or (rows and (capacity(rollout, length) - len(rows)) * 8 < capacity(rollout, length)):
        return
    if not rows and capacity(rollout, length) < rollout.slots:
        length = bucket(rollout, 1)
    while queue:
        needed = len(queue[0].text()) + rollout.read_every
        longer = length if needed <= length else bucket(rollout, needed)
        if len(rows) + len(drafts) >= capacity(rollout, longer):
            break
        length = longer
        drafts.append(queue.popleft())
    if drafts and length != rollout.length():
        resize(rollout, length)
    groups: dict[tuple, list[Draft]] = {}  # the fresh samples of a request share their prefill
    for draft in drafts:
        groups.setdefault((id(draft.request), -1 if not draft.sample.ids else draft.index), []).append(draft)
    groups = list(groups.values())
    known = [i for i, group in enumerate(groups) if group[0].request is rollout.half[0] and not group[0].sample.ids]
    missing = [i for i in range(len(groups)) if i not in known]
    found = prefill(rollout, [groups[i][0].text()[:-1] for i in missing])
    for i, layers in [(i, rollout.half[1]) for i in known] + [(missing[m], layers) for m, layers in found]:
        place(rollout, groups[i], layers)
    rollout.half = (None, None)
    if groups and queue and queue[0].request is groups[-1][0].request and not queue[0].sample.ids:
        b, last = rows.index(groups[-1][0]), len(queue[0].request.prompt) - 1
        rollout.half = (queue[0].request, [(k[b, :, :last].clone(), v[b, :, :last].clone())
                                           for k, v in zip(rollout.cache.k_L, rollout.cache.v_L)])


def place(rollout: Rollout, group: list[Draft], layers: list[tuple]) -> None:
    """Drafts with one text into the next free slots; the first step runs the text's last token."""
    text, first = group[0].text(), len(rollout.rows)
    last, made, slots = len(text) - 1, len(group[0].sample.ids), slice(first, first + len(group))
    for index, (k, v) in enumerate(layers):
        rollout.cache.k_L[index][slots, :, :last] = k
        rollout.cache.v_L[index][slots, :, :last] = v
    rollout.tok_B[slots], rollout.pos_B[slots], rollout.count_B[slots] = text[-1], last, made
    rollout.done_B[slots] = False
    limits = [draft.request.limits[draft.index] for draft in group]
    rollout.limit_B[slots] = torch.tensor(limits, device=rollout.tok_B.device)
    if rollout.temperature:
        uniform_NT = group[0].request.uniform_NT[[draft.index for draft in group]]
        rollout.uniform_BN[slots, :uniform_NT.shape[1]] = uniform_NT.to(rollout.tok_B.device)
    if made:
        rollout.ids_BN[first, :made] = torch.tensor(group[0].sample.ids, device=rollout.tok_B.device)
        rollout.logp_BN[first, :made] = torch.tensor(group[0].sample.logps, device=rollout.tok_B.device)
    for draft in group:
        draft.since = rollout.steps
        rollout.rows.append(draft)


def prefill(rollout: Rollout, texts: list[list[int]]):
    """Yields (index of a text, its keys and values [K, T, C] per layer), texts of like length together, at most
    PREFILL_TOKENS at a time so that few are held at once."""
    policy = rollout.policy
    prefixes = [find_prefix(rollout, text, texts) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: (prefixes[i], -len(texts[i])))
    while order:
        prefix, longest = prefixes[order[0]], len(texts[order[0]]) - len(prefixes[order[0]])
        if not longest:  # a prompt of one token
            yield order.pop(0), []
            continue
        count = 1
        while (count < min(len(order), PREFILL_TOKENS // longest) and prefixes[order[count]] == prefix
               and 4 * (len(texts[order[count]]) - len(prefix)) >= 3 * longest):  # a quarter is padding at most
            count += 1
        part, order, kept = order[:count], order[count:], []
        ids_BT, pos_BT = pad([texts[i][len(prefix):] for i in part], policy.device)
        before = rollout.prefixes.get(prefix)
        forward(policy, ids_BT, pos_BT + len(prefix), keep=kept, packed=rollout.packed, prefix=before)
        for b, i in enumerate(part):
            own = len(texts[i]) - len(prefix)
            yield i, [tuple(part[b, :, :own] if before is None else
                            torch.cat((before[index][which][0], part[b, :, :own]), dim=1)
                            for which, part in enumerate(layer)) for index, layer in enumerate(kept)]


def find_prefix(rollout: Rollout, text: list[int], texts: list[list[int]]) -> tuple:
    """The beginning that `text` shares with others, () if there is none; its keys and values are in the rollout's
    store, where a new one goes. Of all beginnings that the waiting texts have in common with this one, the one that
    saves most tokens: instructions, rather than instructions and an example that two of them share."""
    if not rollout.share_prefix:
        return ()
    known = [prefix for prefix in rollout.prefixes if len(prefix) < len(text) and tuple(text[:len(prefix)]) == prefix]
    if known or len(rollout.prefixes) >= MOST_PREFIXES:
        return max(known, key=len, default=())
    waiting = {id(draft.request): draft.request.prompt for draft in rollout.queue}
    others = (other for other in (*texts, *waiting.values()) if other is not text)
    shared = sorted((common(text[:-1], other) for other in others), reverse=True)
    saved, length = max(((number * length, length) for number, length in enumerate(shared, 1)), default=(0, 0))
    if length < SHORTEST_PREFIX:
        return ()
    prefix, kept = tuple(text[:length]), []
    forward(rollout.policy, *pad([list(prefix)], rollout.policy.device), keep=kept, packed=rollout.packed)
    rollout.prefixes[prefix] = kept
    return prefix


def common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def decode_step(rollout: Rollout, rows: int, length: int) -> None:
    """One token for each of the first `rows` slots, written on the device; nothing is read back. Rows that are done
    stand still: what they write, they write again."""
    tok_B, pos_B, count_B, done_B = (state[:rows] for state in (rollout.tok_B, rollout.pos_B, rollout.count_B,
                                                                rollout.done_B))
    hidden_BD = forward(rollout.policy, tok_B[:, None], pos_B[:, None], rollout.cache, length, packed=rollout.packed)
    head = rollout.packed[-1]["head"] if rollout.packed else None
    logits_BV = logits_of(rollout.policy, hidden_BD[:, 0], rollout.temperature or 1.0, head)
    if rollout.temperature:
        new_B, logp_B = draw(logits_BV, rollout.uniform_BN[:rows].gather(1, count_B[:, None]))
    else:
        new_B = logits_BV.argmax(-1)
        logp_B = pick_logp(logits_BV, new_B)
    rollout.ids_BN[:rows].scatter_(1, count_B[:, None], new_B[:, None])
    rollout.logp_BN[:rows].scatter_(1, count_B[:, None], logp_B[:, None])
    live_B = ~done_B
    tok_B.copy_(new_B)
    pos_B += live_B
    count_B += live_B
    done_B |= live_B & ((new_B[:, None] == rollout.stops).any(-1) | (count_B >= rollout.limit_B[:rows]))


def draw(logits_BV: Tensor, uniform_B1: Tensor) -> tuple[Tensor, Tensor]:
    """(ids_B, logp_B): a draw from the softmax by one uniform number a row, in two stages of inversion: first which
    CHUNK of the vocabulary, then which token in it. Gumbel noise for every logit took half of a decode step of 0.5B on
    a CPU, and noise from outside the step is new in every replay of a graph. Overwrites the logits."""
    B, V = logits_BV.shape
    p_BV = logits_BV.sub_(logits_BV.amax(-1, keepdim=True)).exp_()
    whole = V // CHUNK * CHUNK
    sums_BC = p_BV[:, :whole].reshape(B, -1, CHUNK).sum(-1)
    if whole < V:
        sums_BC = torch.cat((sums_BC, p_BV[:, whole:].sum(-1, keepdim=True)), dim=-1)
    below_BC = sums_BC.double().cumsum(-1)
    total_B1 = below_BC[:, -1:]
    target_B1 = uniform_B1 * total_B1
    chunk_B1 = (below_BC <= target_B1).sum(-1, keepdim=True).clamp_(max=sums_BC.shape[1] - 1)
    rest_B1 = target_B1 - (below_BC - sums_BC).gather(1, chunk_B1)
    ids_BC = chunk_B1 * CHUNK + torch.arange(CHUNK, device=logits_BV.device)
    inner_BC = (p_BV.gather(1, ids_BC.clamp(max=V - 1)) * (ids_BC < V)).double().cumsum(-1)
    rest_B1 = torch.minimum(rest_B1, inner_BC[:, -1:] * (1 - 1e-9))  # the two sums differ by rounding
    new_B1 = chunk_B1 * CHUNK + (inner_BC <= rest_B1).sum(-1, keepdim=True)
    logp_B1 = p_BV.gather(1, new_B1).log() - total_B1.log()
    return new_B1[:, 0], logp_B1[:, 0].float()


def replay(rollout: Rollout, rows: int, length: int) -> None:
    """`decode_step` as a CUDA graph, captured at the first use of a (rows, length)."""
    if (rows, length) not in rollout.graphs:
        state = rollout.tok_B, rollout.done_B
        was = [tensor.clone() for tensor in state]
        rollout.done_B.fill_(True)  # a first run compiles and warms up, and every row stands still
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                decode_step(rollout, rows, length)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            decode_step(rollout, rows, length)
        for tensor, before in zip(state, was):
            tensor.copy_(before)
        rollout.graphs[rows, length] = graph
    rollout.graphs[rows, length].replay()


def read_sample(rollout: Rollout, b: int) -> Sample:
    count = int(rollout.count_B[b])
    ids = rollout.ids_BN[b, :count].tolist()
    stopped = ids and ids[-1] in rollout.policy.stop_ids
    return Sample(ids, rollout.logp_BN[b, :count].tolist(), "stop" if stopped else "length")


def harvest(rollout: Rollout) -> list[tuple[Request, int, Sample]]:
    finished, done = [], rollout.done_B[:len(rollout.rows)].nonzero()[:, 0].tolist()
    for b in done:
        draft, sample = rollout.rows[b], read_sample(rollout, b)
        draft.request.waiting -= 1
        if not draft.request.waiting:
            draft.request.uniform_NT = None
        finished.append((draft.request, draft.index, sample))
    drop_rows(rollout, done)
    return finished


def drop_rows(rollout: Rollout, gone: list[int]) -> None:
    """Frees slots; the last live rows move into them, so that live rows stay together."""
    live = len(rollout.rows) - len(gone)
    holes = [b for b in gone if b < live]
    movers = [b for b in range(live, len(rollout.rows)) if b not in set(gone)]
    if holes:
        used = max(position(rollout, rollout.rows[b]) for b in movers)
        for layers in (rollout.cache.k_L, rollout.cache.v_L):
            for layer in layers:
                layer[holes, :, :used] = layer[movers, :, :used]
        for state in (rollout.tok_B, rollout.pos_B, rollout.count_B, rollout.limit_B, rollout.done_B,
                      rollout.uniform_BN, rollout.ids_BN, rollout.logp_BN):
            state[holes] = state[movers]
        for hole, mover in zip(holes, movers):
            rollout.rows[hole] = rollout.rows[mover]
    rollout.done_B[live:live + len(gone)] = True
    rollout.pos_B[live:live + len(gone)] = 0
    del rollout.rows[live:]


def generate(policy: Policy, prompts: list[list[int]], n: int | list[int] = 1, max_new_tokens: int = 256,
             temperature: float = 1.0, seed: int = 0, slots: int = 64, kv_gb: float = 4.0,
             progress=None, **switches) -> list[list[Sample]]:
    """n responses to each prompt (or n[i] to prompts[i]): result[i][j] is the j-th sample of prompts[i]. The seed fixes
    all draws.

    A queue feeds `slots` rows. Each prompt is prefilled once and its keys and values are copied to its n rows. Rows
    have their own positions, so nothing is padded in decoding; a finished row's place is taken by the last live row,
    and free places are refilled from the queue. Only temperature shapes the distribution: top-p and top-k would bias
    the ratio in the update. `progress` is called with the tokens made so far; `switches` go to `start_rollout`."""
    if not prompts:
        return []
    longest = max(map(len, prompts)) + max_new_tokens
    if min(map(len, prompts)) == 0 or longest > policy.max_length:
        raise ValueError(f"prompts must have 1 to {policy.max_length - max_new_tokens} tokens here, not"
                         f" {longest - max_new_tokens}")
    counts = [n] * len(prompts) if isinstance(n, int) else n
    samples = [[None] * count for count in counts]
    rollout = start_rollout(policy, min(slots, max(1, sum(counts))), longest, max_new_tokens, temperature, seed, kv_gb,
                            **switches)
    # Longest first: prompts prefilled together are of like length, and the most expensive ones do not come last.
    for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        if counts[i]:
            add(rollout, prompts[i], counts[i], tag=i)
    while not idle(rollout):
        for request, j, sample in advance(rollout):
            samples[request.tag][j] = sample
        if progress:
            progress(rollout.made)
    return samples

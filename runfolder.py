"""
A run's folder, written and read: runs/NAME holds

    config.json      the options of the run (config.read_config)     lock           held while a process trains
    metrics.jsonl    a line of numbers a step                        machine.json   commit, machine, versions
    samples.jsonl    a line a response                               preset.json    the preset's defaults
    checkpoint/      adapter, optimizer, buffers; checkpoint.old/ the one before
    heldout.md       accuracy before and after, once it has ended    report.html    python -m report runs/NAME
    heldout.old.md   the same of when it had ended before
    evaluations.jsonl    with --eval_every: how many answers solved each held-out task; empty without
    seed_tasks.jsonl, propose_from.jsonl    what these options named, so that the run can go on without those files

Order of reading: the folder, what a step writes (`step_metrics`, `Log`), checkpoints, notes and mirrors.
"""
import fcntl
import hashlib
import json
import math
import os
import platform
import re
import resource
import secrets
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm

from config import HERE, PRESETS, Config, UserError, names_no_file
from model import save_policy
from sandbox import host
from sandbox.values import printable
from tasks import Buffers, task_to_json


def say(line: str) -> None:
    tqdm.write(printable(line))
    sys.stdout.flush()


class WaitLine:
    """What the executor waits for (its `tell`): a line below the bars of a terminal, a line a minute elsewhere."""
    def __init__(self):
        self.bar, self.said = None, 0.0

    def __call__(self, line: str) -> None:
        if not line and self.bar is not None:
            self.bar.close()
            self.bar = None
        elif line and sys.stderr.isatty():
            self.bar = self.bar or tqdm(bar_format="{desc}", leave=False, position=2)
            self.bar.set_description_str(line)
        elif line and time.monotonic() - self.said > 60:
            self.said = time.monotonic()
            say(f"note: {line}")


def write_file(path: Path, text: str) -> None:
    """All of it or nothing."""
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def read_lines(path: Path, every: int = 1, most: int | None = None) -> list[dict | None]:
    """The objects of a JSONL file, or its first `most`, without a last line that is still being written. Of a file that
    is too large to be held, `every` keeps the steps that are multiples of it (and 0), told without reading the rest of
    a line; the others are None. UserError names a line that is no object."""
    objects, start = [], b'{"step": '
    with open(path, "rb") as lines:
        for number, line in enumerate(islice(lines, most), 1):
            step = line[len(start):line.find(b",", 0, 40)] if every > 1 and line.startswith(start) else b"0"
            if step.isdigit() and int(step) % every:
                objects.append(None)
            elif line.endswith(b"\n"):
                try:
                    objects.append(json.loads(line))
                except (ValueError, RecursionError):
                    objects.append(None)
                if not isinstance(objects[-1], dict):
                    raise UserError(f"{path}, line {number}: not a line that train.py wrote")
    return objects


def folder_of(cfg: Config) -> Path:
    return Path(cfg.resume) if cfg.resume else Path("runs") / cfg.name


def read_metrics(folder: Path, most: int | None = None) -> list[dict]:
    """The lines of metrics.jsonl, or the first `most`; UserError names one that train.py did not write."""
    path = folder / "metrics.jsonl"
    lines = read_lines(path, most=most) if path.exists() else []
    for number, line in enumerate(lines, 1):
        if type(line.get("step")) is not int or not all(is_figure(key, value) for key, value in line.items()):
            raise UserError(f"{path}, line {number}: not a line that train.py wrote")
    return lines


def is_figure(key: str, value) -> bool:
    """Whether this is what a key of metrics.jsonl has: a number or null, counts, or an evaluation's figures by name."""
    if key.startswith("solved_of_"):
        return isinstance(value, list) and all(type(count) is int for count in value)
    if isinstance(value, dict):
        parts = [part for item in value.values() for part in (item if isinstance(item, list) else [item])]
        return key.startswith(("heldout", "eval")) and all(type(part) in (int, float) for part in parts)
    return value is None or type(value) in (int, float)


def open_folder(cfg: Config) -> tuple[Path, object]:
    """The run's folder and the lock on it, which lives as long as this process."""
    folder = folder_of(cfg)
    if cfg.resume:
        return folder, lock_and_note(cfg, folder)
    if folder.exists():
        raise UserError(f"{folder} exists already; go on with --resume {folder}, or choose another --name")
    folder.mkdir(parents=True)
    try:
        return folder, lock_and_note(cfg, folder)
    except BaseException:
        remove_if_empty(folder)
        raise


def lock_and_note(cfg: Config, folder: Path):
    """The lock; a run that has ended is left as it is."""
    lock = open(folder / "lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"{folder} is in use by another process; wait for it or stop it") from error
    except OSError as error:  # some network file systems have no locks
        say(f"note: no lock on {folder} ({error.strerror}): see to it that no other process trains there")
    if cfg.resume and finished(cfg, folder):
        return lock
    notes = {"config": asdict(cfg) | {"resume": None}, "machine": machine(cfg.device),
             "preset": asdict(Config()) | PRESETS.get(cfg.preset, {})}
    for name, note in notes.items():
        write_file(folder / f"{name}.json", json.dumps(note, indent=2) + "\n")
    for name in ("seed_tasks", "propose_from") if not cfg.resume else ():
        if (path := getattr(cfg, name)) and not names_no_file(name, path):
            shutil.copyfile(path, folder / f"{name}.jsonl")
    return lock


def file_of(cfg: Config, folder: Path, name: str) -> str:
    """What --seed_tasks or --propose_from names; on --resume the run's own copy of it, where it has one."""
    copy = folder / f"{name}.jsonl"
    return str(copy) if cfg.resume and copy.exists() else getattr(cfg, name)


def remove_if_empty(folder: Path) -> None:
    """The folder of a new run that could not start and holds neither a response nor a checkpoint: its name is free
    again."""
    samples = folder / "samples.jsonl"  # stays empty with --keep_samples 0, and a user may have removed it
    if not (has_checkpoint(folder) or samples.exists() and samples.stat().st_size):
        shutil.rmtree(folder, ignore_errors=True)


def has_checkpoint(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("checkpoint", "checkpoint.old"))


def way_on(folder: Path) -> str:
    """What a run that was stopped has, and how it goes on."""
    if not folder.exists():
        return "nothing was begun"
    saved = "what was saved is whole" if has_checkpoint(folder) else "no step was saved yet"
    return f"{saved}: go on with python train.py --resume {folder}"


def tokens_made(folder: Path) -> int:
    """Generated in all steps of a run."""
    return sum(line.get("tokens_generated") or 0 for line in read_metrics(folder))


def finished(cfg: Config, folder: Path) -> bool:
    """Whether the run has its table (heldout.md), and no step is left to make."""
    try:
        step = json.loads((folder / "checkpoint" / "state.json").read_text())["step"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # find_checkpoint tells
        return False
    return (isinstance(step, int) and (folder / "heldout.md").exists()
            and (step >= cfg.steps or 0 < cfg.budget_tokens <= tokens_made(folder)))


def set_table_aside(folder: Path) -> None:
    """Of a run that had ended and goes on."""
    if (folder / "heldout.md").exists():
        os.replace(folder / "heldout.md", folder / "heldout.old.md")


# ----------------------------------------------------------------------------------------------------------------
# What a step writes

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
    """Of those that are known."""
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else None


def step_metrics(run, everything: list, trained: list, clock: Clock) -> dict:
    """One flat line of numbers about train.py's rows of a step: all of them, and those that were trained on. Keys end
    in /type or /role/type. None means there was nothing to measure."""
    cfg, m = run.cfg, {"step": run.step}
    for type in cfg.types:
        mine = [row for row in everything if row.type == type and row.kind == "propose"]
        valid = [row for row in mine if row.task and not row.task.heldout]
        m[f"valid/{type}"] = mean(row.task is not None for row in mine)
        for reason, count in Counter(row.verdict for row in mine).items():
            m[f"gate/{type}/{reason}"] = count
        m[f"distinct/{type}"] = len({row.task.key for row in valid}) / len(valid) if valid else None
        m[f"learnability/{type}"] = mean(row.learnability for row in valid)
        # What proposers earned by probes that never came to an end, of all that they earned.
        earned = sum(max(0, row.learnability or 0) for row in valid)
        ramble = sum(max(0, (row.learnability or 0) - max(0, row.learnability_whole or 0)) for row in valid)
        m[f"learnability_cut_off/{type}"] = ramble / earned if earned else None
        probes = [probe for row in valid for probe in row.probes]
        m[f"probes_cut_off/{type}"] = mean(probe.cut_off for probe in probes)
        m[f"probes_infra/{type}"] = mean(probe.verdict == "infra" for probe in probes)
        valid = [row for row in valid if row.solve_rate is not None]
        solved = Counter(round(row.solve_rate * cfg.n_probes) for row in valid)
        m[f"solved_of_{cfg.n_probes}/{type}"] = [solved[k] for k in range(cfg.n_probes + 1)]
        m[f"mixed/{type}"] = mean(0 < row.solve_rate < 1 for row in valid)
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
    m["heldout_proposals"] = sum(row.task is not None and row.task.heldout for row in everything)
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
    learn = mean(m[f"learnability/{t}"] for t in cfg.types)
    length = mean(m[f"length/{role}/{t}"] for role in ("propose", "solve") for t in cfg.types)
    seconds = " ".join(f"{key[8:]} {value:.1f}" for key, value in m.items() if key.startswith("seconds/"))
    return (f"step {m['step']:4d} | solve reward {by_type('reward/solve')} | valid {by_type('valid')} | learnability"
            f" {learn or 0:.2f} | length {length or 0:.0f} | {m['tokens_per_second']:,.0f} tok/s | seconds {seconds}")


FIRST_STEPS = 5  # after which a role should have its form


def first_lengths(folder: Path) -> dict[str, float]:
    """"length/role/type": its mean over the run's first steps."""
    values = defaultdict(list)
    lines = read_metrics(folder, FIRST_STEPS + 1)  # perhaps with an evaluation at step 0
    for key, value in (item for line in lines for item in line.items()):
        if key.startswith("length/") and value is not None:
            values[key].append(value)
    return {key: mean(some) for key, some in values.items()}


def heldout_warning(name: str, was: float, now: float, low: float | None = None, high: float | None = None) -> str:
    """What to say of held-out accuracy (shares) that fell, with the interval of its change where that is known; "" if
    it did not. A half that is lost is told even where it may be chance."""
    halved, sure = now <= was / 2 and was - now >= 0.01, high is not None and high < 0
    if not halved and not sure:
        return ""
    interval = "" if high is None else f" [{round(100 * low)}, {round(100 * high)}]"
    doubt = ", which with so few tasks may be chance" if high is not None and not sure else ""
    return (f"held-out accuracy of {name} {'halved' if halved else 'fell'}: {100 * was:.0f}% to {100 * now:.0f}%,"
            f" {round(100 * (now - was))}{interval} points{doubt}")


def step_warnings(m: dict, cfg: Config, first: dict[str, float]) -> list[tuple[str, str]]:
    """(key, line) of what a user should know about a step; each key is told once a run. `first`: of `first_lengths`."""
    lines, late = [], m["step"] > FIRST_STEPS
    for role in ("propose", "solve") if late else ():
        bad = mean(value for key, value in m.items() if key.startswith(f"bad_format/{role}/"))
        if (bad or 0) >= 0.5:
            lines.append((f"form/{role}", f"{100 * bad:.0f}% of the responses that {role} are badly formatted, after"
                          f" {FIRST_STEPS} steps; python -m tools doctor --model {cfg.model} says why"))
    if late and not any(value for key, value in m.items() if key.startswith("mixed/")):
        lines.append(("mixed", "no new task of this step was solved sometimes but not always, and others teach nothing;"
                      " more --n_probes, easier --seed_tasks or --references_from mixed may help"))
    for key, value in m.items():
        name = key.split("/", 1)[-1]
        if late and key in first and value is not None and value < first[key] / 4:  # first has lengths alone
            lines.append((f"short/{key}", f"{name} responses have {value:.0f} tokens, {first[key]:.0f} in the first"
                          f" {FIRST_STEPS} steps: they collapse; a lower --lr or some --kl_coef may keep them"))
        if key.startswith("cut_off/") and (value or 0) > 0.2:
            lines.append((key, f"{100 * value:.0f}% of the {name} responses reached --max_new_tokens"
                               f" {cfg.max_new_tokens} and are mostly badly formatted; raise it if this stays"))
        if key.startswith("learnability_cut_off/") and (value or 0) > 0.25:
            lines.append((key, f"{100 * value:.0f}% of the learnability of {name} tasks is due to answers that were cut"
                               f" off at --max_new_tokens {cfg.max_new_tokens}: proposers earn by making the solver"
                               " ramble; raise it, or leave such probes out with --cut_off_probes left_out"))
        if key == "heldout_change":
            told = {type: (m["heldout_by_type"][type][0], *change) for type, change in value.items()}
            lines += [(f"{key}/{type}", f"{line}, since the first evaluation; a lower --lr or some --kl_coef may help")
                      for type, (now, change, low, high) in told.items()
                      if (line := heldout_warning(type, now - change, now, low, high))]
        if key.startswith("valid/") and value == 0:
            lines.append((key, f"no valid {name} proposal in this step; metrics.jsonl counts why under gate/{name}/"))
    if all(value == 1 for key, value in m.items() if key.startswith("zero_advantage/") and value is not None):
        lines.append(("zero", "all rewards within each type and role were equal, so this step's gradient is zero and"
                              " Adam's momentum alone moves the weights; that happens with small batches and early on"))
    if m.get("skipped_updates"):
        lines.append(("skipped", "an update was skipped: nothing to train on, or its gradient was not finite"))
    return lines


class Log:
    """What a run writes line by line. Lines reach the disk before the checkpoint that counts them, and lines that no
    checkpoint counts are cut off on resume: a step is in the files once or not at all."""
    FILES = ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl")

    def __init__(self, folder: Path, keep_samples: int, sizes: list[int]):
        self.keep_samples, self.mirrors = keep_samples, []  # functions that take a step's metrics
        self.files = [open(folder / name, "a", encoding="utf-8") for name in self.FILES]
        for file, size in zip(self.files, sizes):  # earlier versions did not count the evaluations
            file.truncate(min(size, os.fstat(file.fileno()).st_size))  # a user may have removed a large file
            file.seek(0, os.SEEK_END)

    def metrics(self, metrics: dict) -> None:
        """Numbers that are not finite become null: JSON has no nan."""
        finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value
                  for key, value in metrics.items()}
        self.files[0].write(json.dumps(finite, allow_nan=False) + "\n")
        for mirror in self.mirrors:
            mirror(finite)

    def samples(self, rows: list, step: int) -> None:
        counts = Counter()
        for row in rows:
            counts[row.type, row.kind] += 1
            if 0 <= self.keep_samples < counts[row.type, row.kind]:
                continue
            record = {"step": step, "role": row.role, "kind": row.kind, "type": row.type, "reward": row.reward,
                      "heldout": row.task is not None and row.task.heldout, "well_formed": row.well_formed,
                      "verdict": row.verdict, "solve_rate": row.solve_rate, "advantage": row.advantage,
                      "finish": row.sample.finish, "tokens": len(row.sample.ids), "prompt": row.prompt,
                      "text": row.text}
            if row.kind == "propose":
                record["references"] = [task.id for task in row.references]
                record |= {"task": task_to_json(row.task)} if row.task else {"why": row.why} if row.why else {}
            else:
                record["task_id"] = row.task.id
            self.files[1].write(json.dumps(record) + "\n")

    def evaluation(self, line: dict) -> None:
        """At once in the file: the next evaluation reads the first one there."""
        self.files[2].write(json.dumps(line) + "\n")
        self.files[2].flush()

    def sync(self) -> list[int]:
        """Forces the files to the disk and returns their sizes."""
        for file in self.files:
            file.flush()
            os.fsync(file.fileno())
        return [file.tell() for file in self.files]


# ----------------------------------------------------------------------------------------------------------------
# Checkpoints. A folder is complete or absent: written beside, forced to disk, then renamed; the previous one is kept.

def save_checkpoint(run, sizes: list[int]) -> None:
    """`sizes` are what Log.sync returned: the bytes of the logs that the checkpoint counts."""
    new, current, old = (run.folder / name for name in ("checkpoint.new", "checkpoint", "checkpoint.old"))
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        save_policy(run.policy, new / "policy")
        torch.save(run.optimizer.state_dict(), new / "optimizer.pt")
        # No generator states: every draw comes from (seed, step, purpose), see train.Training.rng.
        state = {"step": run.step, "sizes": sizes, "buffers": run.buffers.to_json()}
        (new / "state.json").write_text(json.dumps(state))
        (new / "checksums.json").write_text(json.dumps(checksums(new)))
        for path in [*new.rglob("*"), new]:
            force_to_disk(path)
        if current.exists():
            shutil.rmtree(old, ignore_errors=True)
            current.rename(old)
        new.rename(current)
        force_to_disk(run.folder)
    except Exception as error:  # torch and safetensors report a full disk in classes of their own
        before = "the checkpoint before it is whole" if current.exists() or old.exists() else "it is the first one"
        raise UserError(f"cannot write {new} ({str(error).splitlines()[0]}), {before}: make room") from error


def force_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def checksums(folder: Path) -> dict[str, str]:
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "checksums.json":
            sums[str(path.relative_to(folder))] = sha256_of(path)
    return sums


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(folder: Path) -> list[str]:
    """The files of a checkpoint that are not as they were written."""
    try:
        wanted, actual = json.loads((folder / "checksums.json").read_text()), checksums(folder)
        return sorted(name for name in wanted.keys() | actual.keys() if actual.get(name) != wanted.get(name))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ["checksums.json"]


def find_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint, verified; None if the run was stopped before its first. Raises UserError if damaged."""
    new, current, old = (folder / name for name in ("checkpoint.new", "checkpoint", "checkpoint.old"))
    if not current.exists() and new.exists() and not damage(new):
        new.rename(current)  # stopped between the two renames of save_checkpoint
    newest = next((path for path in (current, old) if path.exists()), None)
    if newest and (bad := damage(newest)):
        way_on = (f"remove {newest} to go on from the one before, {old.name}" if newest == current and old.exists() else
                  "there is no older one; start a new run")
        raise UserError(f"{newest} is damaged ({', '.join(bad)}); {way_on}")
    return newest


def load_checkpoint(checkpoint: Path, optimizer: torch.optim.Optimizer, device) -> tuple[int, list[int], Buffers]:
    """Fills the optimizer; (step, sizes of the logs, buffers). The adapter in `policy/` is for model.load_policy."""
    state = json.loads((checkpoint / "state.json").read_text())
    optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", map_location=device, weights_only=True))
    return state["step"], state["sizes"], Buffers.from_json(state["buffers"])


# ----------------------------------------------------------------------------------------------------------------
# Notes: the commit a run ran at, the machine, and mirrors of metrics.jsonl in other tools

def commit() -> str:
    """Of this code, and whether files differ from it; unknown without git or outside a repository."""
    def git(*words) -> str:
        return subprocess.run(["git", "-C", HERE, *words], capture_output=True, text=True).stdout.strip()
    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!results")
        return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")
    except OSError:  # a machine without git can train
        return "unknown"


def machine(device: str) -> dict:
    """What config.json does not say of where a run ran."""
    named = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {"commit": commit(), "cpu": named[1] if named else platform.machine(), "cores": host.cores(),
            "gpu": torch.cuda.get_device_name() if device == "cuda" else None, "python": platform.python_version(),
            "torch": torch.__version__}


def mirrors(cfg: Config, folder: Path, step: int) -> list:
    """Functions that take a step's metrics, for --tensorboard and --wandb. metrics.jsonl is the source: a mirror that
    fails, when it starts (no package, no login) or later, costs a line, not the run."""
    working = []
    for flag, start in (("tensorboard", start_tensorboard), ("wandb", start_wandb)):
        if getattr(cfg, flag):
            try:
                working.append(careful(flag, start(cfg, folder, step)))
            except ImportError:
                say(f"note: --{flag} has no effect, the package is not there: pip install {flag}")
            except Exception as error:
                say(f"note: --{flag} has no effect ({first_line(error)})")
    return working


def careful(flag: str, write):
    """write(numbers of a step, step) as a mirror, until it fails."""
    def mirror(metrics: dict) -> None:
        nonlocal write
        try:
            if write:
                write(scalars(metrics), metrics["step"])
        except Exception as error:
            write = None
            say(f"note: --{flag} stopped ({first_line(error)}); metrics.jsonl goes on")
    return mirror


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]


def start_tensorboard(cfg: Config, folder: Path, step: int):
    from torch.utils.tensorboard import SummaryWriter
    board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(values: dict, step: int) -> None:
        for key, value in values.items():
            board.add_scalar(key, value, step)
        board.flush()
    return write


def start_wandb(cfg: Config, folder: Path, step: int):
    import wandb
    # Not the name: a later run that has it again would be taken for this one, and its first steps dropped.
    path = folder / "wandb.id"
    if not path.exists():
        path.write_text(secrets.token_hex(6))
    wandb.init(project="azr", name=cfg.name, id=path.read_text(), dir=str(folder), config=vars(cfg), resume="allow")
    return lambda values, step: wandb.log(values, step=step)


def scalars(metrics: dict) -> dict:
    """The numbers of a step; lists are left to metrics.jsonl."""
    flat = {}
    for key, value in metrics.items():
        flat |= {f"{key}/{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return {key: value for key, value in flat.items() if isinstance(value, (int, float))}

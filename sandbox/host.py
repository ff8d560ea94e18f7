"""What this process may use of its machine: cores and memory, as its affinity and its control groups allow.

In a container the machine's own numbers are others': who believes them starts too many processes and is killed for the
memory they take. `root` is where the file systems are, for tests.
"""
import math
import os
from collections.abc import Iterator
from pathlib import Path

NO_LIMIT = 1 << 60  # version 1 writes a number about 2**63 where there is none


def groups(controller: str, root: str = "/") -> Iterator[Path]:
    """The folders of the process's control group and of those around it; version 1's have the controller's name. In a
    container the path may be the host's, which is not there: then the top of what is mounted is its own."""
    try:
        lines = Path(root, "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        mounts = [f"sys/fs/cgroup/{name}" for name in (names, controller)] if names else \
            ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
        for mount in dict.fromkeys(mounts):
            top = Path(root, mount)
            folder = top / path.lstrip("/")
            yield from (place for place in (folder, *folder.parents) if place.is_relative_to(top) and place.is_dir())


def numbers(folder: Path, name: str) -> list[int]:
    """Of one of its files, -1 for "max"; none where there is no such file."""
    try:
        return [-1 if word == "max" else int(word) for word in (folder / name).read_text().split()]
    except (OSError, ValueError):
        return []


def cores(root: str = "/") -> int:
    """How many this process may use, at least one; parts of one count as one."""
    allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for folder in groups("cpu", root):
        quota = numbers(folder, "cpu.max") or \
            numbers(folder, "cpu.cfs_quota_us") + numbers(folder, "cpu.cfs_period_us")
        if len(quota) == 2 and min(quota) > 0:
            allowed = min(allowed, quota[0] / quota[1])
    return max(1, math.ceil(allowed))


def memory(root: str = "/") -> tuple[int, int]:
    """(bytes that this process may use at most, with all else in its control groups; bytes of them that are free)."""
    lines = Path(root, "proc/meminfo").read_text().splitlines()
    known = {name: int(amount.split()[0]) << 10 for name, _, amount in (line.partition(":") for line in lines)}
    total, free = known["MemTotal"], known["MemAvailable"]
    for folder in groups("memory", root):
        limit = numbers(folder, "memory.max") or numbers(folder, "memory.limit_in_bytes")
        used = numbers(folder, "memory.current") or numbers(folder, "memory.usage_in_bytes")
        if limit and used and 0 <= limit[0] < NO_LIMIT:
            total, free = min(total, limit[0]), min(free, limit[0] - used[0] + file_cache(folder))
    return total, max(0, free)


def file_cache(folder: Path) -> int:
    """Bytes of a group's use that the kernel gives back when asked."""
    try:
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(stat.get("total_inactive_file") or stat.get("inactive_file") or 0)
    except (OSError, ValueError):
        return 0

"""python -m speed: every measurement runs, on small sizes; what it measures is no test's business."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = ["--model", "nano", "--device", "cpu", "--repeats", "1", "--slots", "16", "--batches", "16", "--attention", "sdpa",
         "--no-continuous", "--no-llamacpp", "--prompts", "4", "--n", "2", "--response_max", "40",
         "--response_median", "20", "--update_prompt", "20", "--update_response", "60", "--update_n", "2",
         "--step_batch", "2"]


@pytest.mark.slow
def test_every_part_of_gpu_runs_with_tiny_shapes(tmp_path):
    from speed import gpu
    root, out = Path(__file__).resolve().parent.parent, tmp_path / "gpu.jsonl"
    ended = subprocess.run([sys.executable, "-m", "speed", "gpu", "--dry", "--out", str(out)], capture_output=True,
                           text=True, cwd=root)
    assert ended.returncode == 0, ended.stderr
    assert {json.loads(line)["part"] for line in out.read_text().splitlines()} == set(gpu.PARTS)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["rollout", "update", "memory", "step"])
def test_every_measurement_ends_with_a_line_of_its_figures(what):
    root = Path(__file__).resolve().parent.parent
    ended = subprocess.run([sys.executable, "-m", "speed", what, *SMALL], capture_output=True, text=True, cwd=root)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout.splitlines()[-1])
    assert figures["model"] == "nano" and any(key.startswith(f"{what}.") for key in figures)
    if what != "memory":
        assert figures[f"{what}.ratio"] > 0
    if what == "update":
        assert figures["update.gradient_cosine"] > 0.999

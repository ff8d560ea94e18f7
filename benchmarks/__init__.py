"""What eval.py scores: the paper's benchmarks and held-out self-play tasks."""

"""
What eval.py scores: the paper's benchmarks and held-out self-play tasks.

Order of reading: suite.py (the table), files.py, items.py, prompts.py and judges.py (what it names), harness.py and
mathcheck.py (what runs in the executor's processes), taskfiles.py (held-out tasks as a benchmark), stages.py
(responses, verdicts), summary.py with stats.py (numbers, comparison), selfcheck.py. selfplay.py is what train.py uses:
alone until it evaluates, then with lenient.py and stats.py, and with the rest if --eval_tasks names benchmarks.
"""

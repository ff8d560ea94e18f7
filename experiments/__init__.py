"""
Experiments with controls and intervals, one command each. Every arm is a run of train.py with some flags changed, for
every seed; its folder runs/arm-nano.DIGEST-STEPS-ARM-SEED is kept (a digest of weights, held-out tasks and options),
so a second call goes on where the first was stopped, one with more seeds keeps those that are there, and experiments
share the runs of an arm that both have.

    python -m experiments learns                        # self-play against its controls, 3 seeds
    python -m experiments swap                          # fresh solvers on early, late, frozen and matched tasks
    python -m experiments trials                        # options that might make the proposer matter more
    python -m experiments length --steps 600 --seeds 2  # the preset's and the paper's settings for long
    python -m experiments ablations --arms self-play "n = 4"  # some arms only
    python -m experiments learns --steps 10 --seeds 1   # a quick look
    python -m experiments learns --model runs/rotated   # of another nano, which nano/make.py made
    python -m experiments takeoff --model DIR ...       # a real model: see takeoff.py

Written to runs/ (with --publish to results/), anew after every run, so that there is something to look at from the
start: NAME.json (every curve, every gain with its interval), NAME.md (the table) and NAME.png; of another --model
NAME-FOLDER.

What counts is greedy held-out accuracy and pass@1 at T = 1, each the mean over task types, groups and depths of the
held-out file, which names a group for each dose of an operator family in nano's first training (nano/make.py). A gain
is the difference to the model before training, on the same tasks. Its 95% interval adds two sources: the spread over
seeds (Student's t) and the sampling of tasks (clustered by program: tasks of one program are not independent). Arms are
compared with self-play in the same way, over the seeds that both have. The first row is of the model before training,
asked in whichever of four ways gives most (selfplay.zero_token): what costs nothing is no gain of training.

Order of reading: arms.py (the arms, and which commands a run of one still needs), work.py (what these commands do
beside train.py), results.py (gains, intervals, table and plot).
"""

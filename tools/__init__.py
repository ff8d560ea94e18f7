"""
What is to be trained, and what was: for other tools and for the terminal.

    python -m tools doctor --model DIR              # what a model makes of both roles, and the flags to train it with
    python -m tools export runs/NAME OUT            # the adapter, with tokenizer and model card: peft, vLLM, llama.cpp
    python -m tools export runs/NAME OUT --merge    # all weights in one folder, for transformers
    python -m tools chat runs/NAME                  # a message a line, the answer below it
    python -m tools show nano/heldout.jsonl --number 3                   # a task, as the solver sees it
    python -m tools show runs/NAME --program mine.py --input "[3], 'a'"  # and what the gate says of a program
"""

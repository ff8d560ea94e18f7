"""The executor's other side: what runs model-written programs, and what keeps them in."""

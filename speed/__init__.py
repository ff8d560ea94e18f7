"""Speed and memory: python -m speed WHAT. How this implementation compares with what one would otherwise run."""

"""Speed and memory: python -m speed"""

"""A run's report: python -m report runs/NAME"""

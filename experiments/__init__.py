"""Runs that are compared: python -m experiments"""

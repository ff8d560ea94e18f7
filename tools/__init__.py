"""python -m tools export | chat | show"""

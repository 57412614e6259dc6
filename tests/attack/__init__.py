"""Attacks on the project: broken inputs, damaged results, kills, runs at once, full disks; `python -m attack` runs all.

Each module is one attack: KINDS, what it does wrong, and `run(case, place)`, which does it once and returns what was at
fault in the answer, None if nothing was.
"""

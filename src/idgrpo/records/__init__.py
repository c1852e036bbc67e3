"""What travels between stages: cases, samples, pairs, votes and preferences, one line of JSON each.

Reads and writes JSON Lines (and CSV cases, exchange formats); paths in a file are relative to its folder.
"""

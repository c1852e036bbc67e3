"""What travels between stages: cases, samples, pairs, votes and preferences, one line of JSON each.

Reads and writes JSON Lines and exchange formats; reads cases from CSV, folders and published benchmarks too. Paths in a file
are relative to its folder.
"""

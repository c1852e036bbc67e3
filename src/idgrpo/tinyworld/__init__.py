"""The embedded world: procedural people, clips, references, its oracle and its shipped tiny checkpoints.

Reads nothing; writes cases and portraits, and (through `tinyworld.training`) the tiny checkpoints.
"""

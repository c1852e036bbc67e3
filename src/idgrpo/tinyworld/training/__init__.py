"""Training scripts of the shipped tiny checkpoints (`make tinyworld` runs them in order; see docs/tinyworld.md).

Reads the embedded world; writes `tinyworld/checkpoints/`.
"""

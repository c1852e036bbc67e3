"""The generators that get tuned (VACE, Phantom and their tiny versions) behind one small contract.

Reads: weights from disk, cases (prompt and reference images). Writes: video clips, LoRA adapters.
"""

ENTRIES = "idgrpo.bases.entries:ENTRIES"
"""Import string of the table of named bases; the table itself imports no torch."""

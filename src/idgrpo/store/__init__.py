"""Versioned artifacts on disk: published whole, immutable, found again by reference or by what they were made from.

Reads and writes `<store>/artifacts/<kind>/<name>/v0003/` with a manifest each; runs lie apart in `<store>/runs/`.
"""

KINDS = ("cases", "samples", "pairs", "votes", "preferences", "rm", "policy", "report")

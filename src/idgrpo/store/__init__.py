"""Versioned artifacts on disk: published whole, immutable, found again by reference or by what they were made from.

Reads and writes `<store>/artifacts/<kind>/<name>/v0003/` with a manifest each; runs lie apart in `<store>/runs/`.
"""

CONTENTS = {
    "cases": "who should appear in a video and what they do: `cases.jsonl`, copies of the photos",
    "samples": "clips of cases: `samples.jsonl`, `videos/`, contact sheets",
    "pairs": "pairs of clips to compare: `pairs.jsonl`",
    "votes": "answers of annotators, models or the oracle: `votes.jsonl`; `gold.json` where gold pairs were asked",
    "preferences": "labelled pairs: `prefs.jsonl`; of `distort` also the clips, of `annotate` the agreement report",
    "rm": "a reward model: weights, card with its accuracy on held-out people, curves",
    "policy": "a tuned base: adapter (or all weights), `policy.json`, `metrics.jsonl`, curves, last samples",
    "report": "measures with intervals: `report.html`, `report.json`, tables for Markdown and LaTeX, `samples.csv`, contact sheet",
}
"""The kinds of artifacts and what lies in them."""
KINDS = tuple(CONTENTS)

"""Reads pairs (or samples, from which it makes pairs) and asks people, models or simulated annotators which is better.
Writes votes (append-only) and the preferences aggregated from them, with a report on how far they can be trusted."""

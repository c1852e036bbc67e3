"""Reads nothing at import; holds the versioned wording (`<name>_v<number>.txt`) that a reward model is asked with.
A published wording is never edited: change it under a new number, because saved models carry its text and digest."""

"""Reads a study: a chain of stages, a grid of changes to it, seeds; calls the stages as functions, as the demo does.

Writes a report artifact: a table with intervals, a picture, the raw rows. Every step is an artifact, so a study goes on."""

"""Align identity-preserving video generators with human feedback."""

__version__ = "0.1.0"

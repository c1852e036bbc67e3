"""The page people look at. Reads reports and the videos they name.

Writes one self-contained HTML text: no outside requests, light and dark, bounded size.
"""

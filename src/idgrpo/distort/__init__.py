"""Clean clip -> worse clip with a known order. Reads samples (clips with references).

Writes videos, preferences (prefs.jsonl: label, distortion, strength, seed, source digest) and a contact sheet.
"""

PAINTERS: dict[str, str] = {
    "tiny": "idgrpo.tinyworld.painter:TinyPainter",
}

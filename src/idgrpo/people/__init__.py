"""Find, embed, track and match people. Reads clips uint8 [f, 3, h, w] and portraits uint8 [3, h, w].

Writes detections, tracks and one assignment of tracks to references per video; nothing on disk.
"""

from idgrpo.plugins import Registry

_FINDERS = {
    "tiny": "idgrpo.tinyworld.finder:TinyFinder",
    "facenet": "idgrpo.people.facenet:FacenetFinder",
    "arcface": "idgrpo.people.arcface:ArcfaceFinder",
    "body": "idgrpo.people.bodies:BodyFinder",
}
FINDERS = Registry("idgrpo.finders", _FINDERS)
"""Finders by name: ours, and those of installed packages."""

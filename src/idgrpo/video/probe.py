"""What a clip is, as `read_video` gives it, without decoding all of it."""

from dataclasses import dataclass
from pathlib import Path

from idgrpo.video.stream import shown


@dataclass(frozen=True)
class VideoInfo:
    """Facts about a clip as shown: frames at a constant rate, upright, with square pixels."""

    frames: int
    width: int
    height: int
    fps: float
    codec: str
    pix_fmt: str
    has_audio: bool


def probe(path: Path | str) -> VideoInfo:
    """Read a clip's facts. Errors: DataError names a file that is missing, no video, cut short, empty, or HDR."""
    facts = shown(path)
    return VideoInfo(
        frames=len(facts.timeline.shown),
        width=facts.width,
        height=facts.height,
        fps=facts.timeline.fps,
        codec=facts.codec,
        pix_fmt=facts.pix_fmt,
        has_audio=facts.has_audio,
    )

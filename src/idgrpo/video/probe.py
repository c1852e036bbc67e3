"""What a video file holds, without decoding all of it."""

from dataclasses import dataclass
from pathlib import Path

import av

from idgrpo.errors import DataError


@dataclass(frozen=True)
class VideoInfo:
    """Facts about a video; `width` and `height` are as shown, after `rotation` (degrees, counter-clockwise)."""

    frames: int
    width: int
    height: int
    fps: float
    codec: str
    pix_fmt: str
    has_audio: bool
    rotation: int
    duration_s: float


def probe(path: Path | str) -> VideoInfo:
    """Read a video's facts (packets are counted, one frame is decoded); DataError names a file that is missing, no video, cut short or empty."""
    path = Path(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path}: no video stream in it")
            stream = container.streams.video[0]
            first = next(container.decode(stream), None)
            if first is None:
                raise DataError(f"{path}: the video has no frames")
            container.seek(0)
            held = sum(1 for packet in container.demux(stream) if packet.size and not packet.is_corrupt)
            if held < stream.frames:
                raise DataError(
                    f"{path}: the video is cut short: {held} of {stream.frames} frames are there", fix="make it again"
                )
            rotation = int(getattr(first, "rotation", 0)) % 360
            turned = rotation in (90, 270)
            fps = float(stream.average_rate or stream.guessed_rate or 0)
            duration = (
                float(stream.duration * stream.time_base)
                if stream.duration and stream.time_base
                else float(container.duration or 0) / av.time_base
            )
            return VideoInfo(
                frames=held,
                width=first.height if turned else first.width,
                height=first.width if turned else first.height,
                fps=fps,
                codec=stream.codec_context.name,
                pix_fmt=stream.codec_context.pix_fmt or "",
                has_audio=bool(container.streams.audio),
                rotation=rotation,
                duration_s=duration,
            )
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path}: not a readable video ({error})", fix="play it, or make it again") from None

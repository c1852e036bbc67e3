"""Open a clip and say how it is to be shown: its frames in time, its colours, its place on the screen.

What `probe` tells and what `read_video` decodes both come from here, so that they always agree.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from idgrpo.errors import DataError, IdgrpoError
from idgrpo.formats import CONVERT_VIDEO, ordinary_file
from idgrpo.video.timeline import Timeline, timeline

# Demuxers of one file each: no playlists, which lead to other files, and no text or pictures taken for clips.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,asf,flv,ogg"
# Here each packet of a MOV or Matroska file is one frame; elsewhere frames are counted by decoding.
PACKET_IS_FRAME = {"h264", "hevc", "av1", "vp9"}
MAX_FRAME_PIXELS = 80_000_000
MAX_FRAMES = 1_000_000
MAX_MISSING = 3  # frames between the last one and the end that the file states
AGAIN = "make it again"
REPAIR = "play it, or make it again"
SDR = "tone-map it to standard dynamic range (BT.709) first"

# Values of ITU-T H.273.
RGB, BT709, UNSPECIFIED = 0, 1, 2
TRANSFERS = {8: "linear light", 9: "logarithmic", 10: "logarithmic", 16: "HDR (PQ)", 17: "DCI", 18: "HDR (HLG)"}
MATRICES = {RGB, BT709, UNSPECIFIED, 4, 5, 6, 7, 9}
BT2020, DISPLAY_P3 = 9, 12
HD_SIDES = (1280, 720)
MAX_PIXEL_ASPECT = 8


@dataclass(frozen=True)
class Shown:
    """Facts about a clip as a player shows it: even rate, square pixels, upright."""

    timeline: Timeline
    width: int
    height: int
    stored_frames: int
    stored_size: tuple[int, int]
    scaled: tuple[int, int] | None  # width and height of a stored frame with square pixels, where they differ
    turn: "Turn"
    matrix: int | None  # the YCbCr matrix to assume, where the file names none
    primaries: int
    codec: str
    pix_fmt: str
    has_audio: bool


@dataclass(frozen=True)
class Turn:
    """How a stored frame is brought upright: transposed first, then mirrored left to right, then top to bottom."""

    transpose: bool = False
    mirror: bool = False
    flip: bool = False

    def applied(self, picture: np.ndarray) -> np.ndarray:
        """Bring a picture [height, width, channel] upright."""
        if self.transpose:
            picture = picture.transpose(1, 0, 2)
        return picture[:: -1 if self.flip else 1, :: -1 if self.mirror else 1]


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and give its first video stream that is no cover picture.

    Errors: DataError naming the file, for whatever goes wrong inside as well: decoders meet damaged bytes at any time.
    """
    path = ordinary_file(path)
    try:
        # Absolute, because a name such as "take:1.mp4" would else be an address. Titles need not be UTF-8.
        with av.open(
            os.path.abspath(path), metadata_errors="replace", container_options={"format_whitelist": CONTAINERS}
        ) as container:
            streams = [s for s in container.streams.video if not _is_cover(s)]
            if not streams:
                raise DataError(f"{path}: no video stream in it")
            yield container, streams[0]
    except (IdgrpoError, MemoryError):
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: not a readable video ({reason})", fix=REPAIR) from error


def _is_cover(stream: VideoStream) -> bool:
    return bool(int(getattr(stream, "disposition", 0)) & 0x400)


def shown(path: Path | str) -> Shown:
    """Look at a clip without decoding more than is needed; remembered until the file changes. Errors: DataError."""
    path = ordinary_file(path)
    status = path.stat()
    return _shown(path.absolute(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _shown(path: Path, size_bytes: int, time_ns: int) -> Shown:
    times, stated_rate = _times(path)
    try:
        even = timeline(times, stated_rate)
    except ValueError as error:
        raise DataError(f"{path}: {error}", fix="convert it to a constant frame rate") from None
    with open_video(path) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise DataError(f"{path}: the video has no frames")
        matrix, primaries = _colours(path, stream, first)
        scaled, turn = _square(path, stream, first), _turn(path, first)
        width, height = scaled or (first.width, first.height)
        return Shown(
            timeline=even,
            width=height if turn.transpose else width,
            height=width if turn.transpose else height,
            stored_frames=len(times),
            stored_size=(first.width, first.height),
            scaled=scaled,
            turn=turn,
            matrix=matrix,
            primaries=primaries,
            codec=stream.codec_context.name,
            pix_fmt=stream.codec_context.pix_fmt or "",
            has_audio=bool(container.streams.audio),
        )


def _times(path: Path) -> tuple[list[Fraction], Fraction | None]:
    """Give the times of the frames that are shown, in seconds, and the rate that the file states.

    Errors: DataError for a clip that is cut short or holds no frames.
    """
    with open_video(path) as (container, stream):
        rate = Fraction(stream.average_rate) if stream.average_rate else None
        num = 0
        stamps: list[int | None] = []
        for packet in container.demux(stream):
            if packet.is_corrupt or (not packet.size and packet.dts is None):  # the last packet is empty
                continue
            num += 1
            if packet.size and not packet.is_discard:
                stamps.append(packet.pts)
            if num > MAX_FRAMES:
                raise DataError(f"{path}: more than {MAX_FRAMES} frames", fix="cut it into clips")
        if num < stream.frames and _num_stored(path) < stream.frames:
            raise cut_short(path, num, stream.frames)
        known = sorted({pts for pts in stamps if pts is not None})
        is_plain = container.format.name.startswith(("mov", "matroska"))
        if (
            is_plain
            and stream.codec_context.name in PACKET_IS_FRAME
            and stream.time_base
            and len(known) == len(stamps) > 0
        ):
            times = [pts * stream.time_base for pts in known]
        else:
            times = _decoded_times(path)
        spacing = (times[-1] - times[0]) / max(1, len(times) - 1)
        if spacing and _stated_end_s(stream) > times[-1] + MAX_MISSING * spacing:
            ends = f"it ends at {float(times[-1]):.2f} of {_stated_end_s(stream):.2f} s"
            raise DataError(f"{path}: the video is cut short: {ends}", fix=AGAIN)
        return times, rate


def _num_stored(path: Path) -> int:
    """Count the packets of a file without heed of edit lists, which hide those that a lossless trim left in."""
    with av.open(os.path.abspath(path), metadata_errors="replace", options={"ignore_editlist": "1"}) as container:
        stream = next(s for s in container.streams.video if not _is_cover(s))
        return sum(1 for packet in container.demux(stream) if packet.size and not packet.is_corrupt)


def _decoded_times(path: Path) -> list[Fraction]:
    with open_video(path) as (container, stream):
        rate, unit = stream.average_rate or stream.guessed_rate, stream.time_base
        stamps = [frame.pts for frame in container.decode(stream)]
    if not stamps:
        raise DataError(f"{path}: the video has no frames")
    known = sorted({pts for pts in stamps if pts is not None})
    if unit and known == stamps:
        return [pts * unit for pts in known]
    if not rate:
        raise DataError(f"{path}: it says neither a frame rate nor the times of its frames", fix=CONVERT_VIDEO)
    return [index / Fraction(rate) for index in range(len(stamps))]


def _stated_end_s(stream: VideoStream) -> float:
    """Give the end that a Matroska file states for a track ("00:00:02.063000000"), or 0: it counts no frames."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        return float(parts[0]) * 3600 + float(parts[1]) * 60 + float(parts[2])
    except (ValueError, IndexError):
        return 0.0


def cut_short(path: Path, found: int, stated: int) -> DataError:
    """Say that frames are missing."""
    if not found:
        return DataError(f"{path}: not a readable video (none of its {stated} frames is there)", fix=AGAIN)
    return DataError(f"{path}: the video is cut short: {found} of {stated} frames are there", fix=AGAIN)


def _colours(path: Path, stream: VideoStream, frame: av.VideoFrame) -> tuple[int | None, int]:
    """Give the matrix to assume where none is named, and the primaries. Errors: DataError for what is not SDR."""
    context = stream.codec_context
    transfer = _first_named(int(getattr(frame, "color_trc", 0)), int(context.color_trc))
    if transfer in TRANSFERS:
        raise DataError(f"{path}: {TRANSFERS[transfer]} video is not read", fix=SDR)
    is_dolby = any(_side_data(frame, name) for name in ("DOVI_METADATA", "DOVI_RPU_BUFFER"))
    if transfer == UNSPECIFIED and is_dolby:
        raise DataError(f"{path}: HDR (Dolby Vision) video is not read", fix=SDR)
    matrix = int(frame.colorspace)
    if matrix not in MATRICES:
        raise DataError(f"{path}: colours by matrix {matrix} of H.273 are not read", fix=CONVERT_VIDEO)
    is_hd = max(frame.width, frame.height) >= HD_SIDES[0] or min(frame.width, frame.height) >= HD_SIDES[1]
    assumed = BT709 if matrix == UNSPECIFIED and is_hd and not frame.format.is_rgb else None
    return assumed, _first_named(int(getattr(frame, "color_primaries", 0)), int(context.color_primaries))


def _first_named(*values: int) -> int:
    return next((value for value in values if value not in (0, UNSPECIFIED)), UNSPECIFIED)


def _side_data(frame: av.VideoFrame, name: str) -> bytes:
    try:
        data: Any = frame.side_data
        return bytes(data[name])
    except (KeyError, ValueError):  # ValueError: the frame holds data of a kind that is newer than the binding
        return b""


def _square(path: Path, stream: VideoStream, frame: av.VideoFrame) -> tuple[int, int] | None:
    """Give the even size of a frame whose pixels are not square, enlarged in one direction; None for square pixels."""
    if frame.width * frame.height > MAX_FRAME_PIXELS:
        raise DataError(
            f"{path}: frames of {frame.width}x{frame.height} px; at most {MAX_FRAME_PIXELS / 1e6:.0f} megapixels are read"
        )
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if not aspect or aspect < 0 or abs(aspect - 1) < 0.01:
        return None
    if not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
        raise DataError(f"{path}: its pixels are said to be {aspect} times as wide as high", fix=CONVERT_VIDEO)
    if aspect > 1:
        return round(frame.width * aspect / 2) * 2, frame.height
    return frame.width, round(frame.height / aspect / 2) * 2


def _turn(path: Path, frame: av.VideoFrame) -> Turn:
    """Read the display matrix: x' = a x + c y, y' = b x + d y of 16.16 fixed point, where y points down."""
    data = _side_data(frame, "DISPLAYMATRIX")
    if len(data) < 36:
        return Turn()
    a, b, _, c, d = np.frombuffer(data[:20], np.int32).astype(float)
    straight, crossed = max(abs(a), abs(d)), max(abs(b), abs(c))
    if max(straight, crossed) == 0:
        return Turn()
    if min(straight, crossed) > 0.02 * max(straight, crossed):
        raise DataError(f"{path}: turned by an angle that is no quarter", fix=CONVERT_VIDEO)
    if straight > crossed:
        return Turn(mirror=a < 0, flip=d < 0)
    return Turn(transpose=True, mirror=c < 0, flip=b < 0)

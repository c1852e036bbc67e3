"""Clips and pictures for the browser: checked before the server starts, mended on request, given out by opaque names."""

import hashlib
import hmac
import json
import logging
import os
import sqlite3
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from idgrpo.errors import DataError
from idgrpo.records.atomic import replacing
from idgrpo.records.models import Pair
from idgrpo.run.progress import progress

log = logging.getLogger(__name__)

MAX_ERRORS = 20
VIDEO_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm"}
IMAGE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
}
TYPES = {**VIDEO_TYPES, **IMAGE_TYPES}
SHOWN_FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP", "image/gif": "GIF"}
PLAYABLE = {".mp4": {"h264", "av1", "vp9"}, ".m4v": {"h264"}, ".webm": {"vp8", "vp9", "av1"}}
PIXELS = {"yuv420p", "yuvj420p"}  # what every browser decodes; 4:4:4, RGB and 10 bits are not
OWN_LOSSLESS = ("h264", "gbrp")  # what `write_video(lossless=True)` writes


@dataclass(frozen=True)
class ShownFile:
    """A file the browser can show; pictures have no frames."""

    path: str
    fps: float = 0.0
    frames: int = 0


def check_media(database: sqlite3.Connection, pairs: Iterable[Pair], mended: Path, *, transcode: bool) -> None:
    """Check every clip and picture of the pairs, and remember the result by size and time of the file.

    Pictures that browsers do not show as they are read here (TIFF, animations, more pages) and our own lossless clips get a
    copy that browsers show; other clips that they cannot play get one when `transcode` is on.

    Args:
        mended: folder for the copies.

    Errors: DataError with the first 20 files that are missing, no media, or that browsers cannot play.
    """
    paths: dict[str, bool] = {}
    for pair in pairs:
        paths.update({pair.video_a: True, pair.video_b: True})
        paths.update({image: False for reference in pair.references for image in reference.images})
    errors: list[str] = []
    unplayable = 0
    with progress(len(paths), "checking clips", "files") as bar:
        for path, is_video in paths.items():
            try:
                _check_one(database, path, is_video, mended, transcode)
            except _Unplayable as error:
                unplayable += 1
                errors.append(str(error))
            except DataError as error:
                errors.append(error.message)
            bar.advance()
    if errors:
        more = f"\n  and {len(errors) - MAX_ERRORS} more" if len(errors) > MAX_ERRORS else ""
        fix = "run again with --transcode: the clips are re-encoded, the originals stay" if unplayable else None
        raise DataError("files that the page cannot show:\n  " + "\n  ".join(errors[:MAX_ERRORS]) + more, fix=fix)


class _Unplayable(DataError):
    pass


def _check_one(database: sqlite3.Connection, path: str, is_video: bool, mended: Path, transcode: bool) -> None:
    file = resolve(path)
    status = file.stat()
    stamp = f"{status.st_size}:{status.st_mtime_ns}"
    row = database.execute("SELECT clip FROM checked WHERE path = ? AND stamp = ?", (path, stamp)).fetchone()
    if row and Path(json.loads(row[0])["path"]).is_file():
        return
    clip = _inspect_video(file, mended, transcode) if is_video else _inspect_image(file, mended)
    database.execute("INSERT OR REPLACE INTO checked VALUES (?, ?, ?)", (path, stamp, json.dumps(asdict(clip))))


def resolve(path: str) -> Path:
    """Give the real file behind a path. Errors: DataError if it is missing, no file, or a link out of its folder."""
    given = Path(path)
    try:
        real = given.resolve(strict=True)
    except OSError:
        raise DataError(f"{path}: there is no such file") from None
    if given.is_symlink() and not real.is_relative_to(given.parent.resolve()):
        raise DataError(f"{path}: a link that leads out of its folder", fix="copy the file there")
    if not real.is_file():
        raise DataError(f"{path}: not a file")
    return real


def _inspect_image(file: Path, mended: Path) -> ShownFile:
    from idgrpo.video.picture import read_picture

    picture = read_picture(file)
    kind = IMAGE_TYPES.get(file.suffix.lower())
    if kind is not None and SHOWN_FORMATS[kind] == picture.format and not picture.is_first_of_many:
        return ShownFile(str(file))
    target = _copy_of(file, mended, ".png")
    with replacing(target) as draft:
        picture.image.save(draft, format="PNG")
    return ShownFile(str(target))


def _inspect_video(file: Path, mended: Path, transcode: bool) -> ShownFile:
    from idgrpo.video.probe import probe

    info = probe(file)
    if info.codec in PLAYABLE.get(file.suffix.lower(), ()) and info.pix_fmt in PIXELS:
        return ShownFile(str(file), info.fps, info.frames)
    if not transcode and (info.codec, info.pix_fmt) != OWN_LOSSLESS:
        raise _Unplayable(f"{file}: {info.codec}, {info.pix_fmt} in {file.suffix or 'no container known'}")
    from idgrpo.video.read import read_video
    from idgrpo.video.write import with_even_sides, write_video

    target, frames = _copy_of(file, mended, ".mp4"), read_video(file)
    even = with_even_sides(frames)
    if even.shape != frames.shape:
        log.warning("%s: shown with its last row or column twice, because its sides are odd", file)
    write_video(target, even, fps=info.fps)
    return ShownFile(str(target), info.fps, info.frames)


def _copy_of(file: Path, mended: Path, ending: str) -> Path:
    mended.mkdir(parents=True, exist_ok=True)
    return mended / (hashlib.sha256(str(file).encode()).hexdigest()[:24] + ending)


def publish_media(database: sqlite3.Connection, secret: bytes, path: str) -> tuple[str, ShownFile]:
    """Give a file its opaque name, the same for the whole session, and let it be fetched from now on."""
    (text,) = database.execute("SELECT clip FROM checked WHERE path = ?", (path,)).fetchone()
    clip = ShownFile(**json.loads(text))
    name = hmac.new(secret, clip.path.encode(), hashlib.sha256).hexdigest()[:32]
    database.execute("INSERT OR IGNORE INTO media VALUES (?, ?)", (name, clip.path))
    return name, clip


def media_file(database: sqlite3.Connection, name: str) -> tuple[str, str] | None:
    """Give path and content type of a name given out before; None for any other, or if the file is no longer one."""
    row = database.execute("SELECT path FROM media WHERE id = ?", (name,)).fetchone()
    if row is None:
        return None
    try:
        if not stat.S_ISREG(os.lstat(row[0]).st_mode):
            return None
    except OSError:
        return None
    kind = TYPES.get(Path(row[0]).suffix.lower())
    return (row[0], kind) if kind else None

"""Which files are clips and pictures: the one list of endings, and the check that a path leads to an ordinary file.

No imports beyond the standard library, so that any room may ask.
"""

import os
import stat
from pathlib import Path

from idgrpo.errors import DataError

VIDEO_ENDINGS = (
    ".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".ogv"
)  # fmt: skip
IMAGE_ENDINGS = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".pgm", ".pfm"
)  # fmt: skip
# Pictures that cameras and editors write and that this package cannot decode.
UNREAD_IMAGES = (
    ".heic", ".heif", ".hif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".psd", ".svg", ".exr", ".hdr"
)  # fmt: skip
UNREAD_VIDEOS = (".rm", ".rmvb", ".vob", ".mxf", ".y4m", ".r3d", ".braw")
CONVERT_IMAGE = "convert it to PNG or JPEG"
CONVERT_VIDEO = "convert it to MP4 (H.264)"


def videos_in(folder: Path) -> list[Path]:
    """List the clips of a folder by name. Files of other kinds and hidden files are left alone.

    Errors: DataError for a folder that cannot be listed, and for a clip in a format that is not read.
    """
    return _listed(folder, VIDEO_ENDINGS, UNREAD_VIDEOS, "videos", CONVERT_VIDEO)


def images_in(folder: Path) -> list[Path]:
    """List the pictures of a folder by name; errors as `videos_in`."""
    return _listed(folder, IMAGE_ENDINGS, UNREAD_IMAGES, "pictures", CONVERT_IMAGE)


def _listed(folder: Path, read: tuple[str, ...], unread: tuple[str, ...], what: str, fix: str) -> list[Path]:
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: the folder cannot be listed ({_reason(error)})") from None
    for path in files:
        if path.suffix.lower() in unread:
            raise DataError(f"{path}: {path.suffix.lower()} {what} are not read", fix=f"{fix}, or move it away")
    return [path for path in files if path.suffix.lower() in read]


def ordinary_file(path: Path | str) -> Path:
    """Return the path of a file that can be read to its end: no folder, pipe or device. Errors: DataError."""
    path = Path(path)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise DataError(f"{str(path)!r}: the file cannot be read ({_reason(error)})") from None
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: a {'folder' if stat.S_ISDIR(mode) else 'pipe or device'}, not a file")
    return path


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)

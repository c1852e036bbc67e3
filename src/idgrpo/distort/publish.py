"""Names that commands import from here; they live in `files`."""

from idgrpo.distort.files import SUMMARY_FILE, copy_result

__all__ = ["SUMMARY_FILE", "copy_result"]

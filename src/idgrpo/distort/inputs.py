"""Read clips to distort: samples.jsonl, or a folder of videos with references beside them."""

import re
from collections.abc import Iterator
from pathlib import Path

from idgrpo.errors import DataError
from idgrpo.records.jsonl import read_records
from idgrpo.records.reference import Reference
from idgrpo.records.sample import Sample

VIDEO_ENDINGS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"}
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def read_samples(data: Path) -> list[Sample]:
    """Read samples from a file, from a folder that holds samples.jsonl, or from a folder of videos.

    In a folder of videos, `walk.mp4` goes with the images of the folder `walk/` (one person each, in the order of their names) and,
    where there is one, the prompt `walk.txt`. Raises DataError for anything else.
    """
    if data.is_file():
        samples = list(read_records(data, Sample))
    elif (data / "samples.jsonl").is_file():
        samples = list(read_records(data / "samples.jsonl", Sample))
    elif data.is_dir():
        samples = list(_folder(data))
    else:
        raise DataError(
            f"{data}: no such file or folder", fix="give samples.jsonl, a samples artifact, or a folder of videos"
        )
    if not samples:
        raise DataError(
            f"{data} holds no clips", fix="give samples.jsonl, or a folder with videos and reference folders"
        )
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise DataError(f"{data}: sample {sample.id!r} is there twice", fix="give every sample its own id")
        seen.add(sample.id)
    return samples


def _folder(folder: Path) -> Iterator[Sample]:
    videos = sorted(p for p in folder.iterdir() if p.suffix.lower() in VIDEO_ENDINGS)
    for video in videos:
        own = folder / video.stem
        images = sorted(p for p in own.iterdir() if p.suffix.lower() in IMAGE_ENDINGS) if own.is_dir() else []
        if not images:
            raise DataError(
                f"{video}: no references", fix=f"put one image a person into {own}/ (person-1.png, person-2.png, ...)"
            )
        text = folder / f"{video.stem}.txt"
        yield Sample(
            id=video.stem,
            case_id=video.stem,
            prompt=text.read_text(encoding="utf-8").strip() if text.is_file() else "",
            references=[Reference(person=f"{video.stem}/{image.stem}", images=[str(image)]) for image in images],
            video=str(video),
            base="recorded",
            policy=None,
            seed=0,
            sampler={},
        )


def slug(text: str) -> str:
    """Make a file name of an id: plain characters, and a digest when something had to go."""
    import hashlib

    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:80]
    if plain == text:
        return plain
    return f"{plain or 'id'}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

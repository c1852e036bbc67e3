"""Read clips to distort: samples.jsonl, or a folder of videos with references beside them."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from idgrpo.errors import DataError
from idgrpo.formats import images_in, videos_in
from idgrpo.records.jsonl import read_records, text_lines
from idgrpo.records.models import Reference, Sample
from idgrpo.records.photos import PeopleCheck, person_of_photo


def read_samples(data: Path) -> list[Sample]:
    """Read samples from a file, from a folder that holds samples.jsonl, or from a folder of videos.

    In a folder of videos, `walk.mp4` goes with the images of the folder `walk/` (one person each, in the order of their names) and,
    where there is one, the prompt `walk.txt`. The same photo in several folders is the same person. Raises DataError for
    anything else.
    """
    file = data if data.is_file() else data / "samples.jsonl"
    if file.is_file():
        samples = list(read_records(file, Sample, unique="id", check=_people_check()))
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
    return samples


def _people_check() -> Callable[[Sample, int], str | None]:
    people = PeopleCheck()
    return lambda sample, line: people.problem(sample.references, line)


def _folder(folder: Path) -> Iterator[Sample]:
    seen: dict[str, Path] = {}
    for video in videos_in(folder):
        if seen.setdefault(video.stem, video) != video:
            raise DataError(f"{video}: {seen[video.stem].name} has the same name", fix="rename one of them")
        own = folder / video.stem
        images = images_in(own) if own.is_dir() else []
        if not images:
            raise DataError(
                f"{video}: no references", fix=f"put one image a person into {own}/ (person-1.png, person-2.png, ...)"
            )
        people: dict[str, Path] = {}
        for image in images:
            first = people.setdefault(person_of_photo(str(image)), image)
            if first != image:
                raise DataError(f"{image}: the same photo as {first.name}", fix="keep one photo of each person")
        text = folder / f"{video.stem}.txt"
        yield Sample(
            id=video.stem,
            case_id=video.stem,
            prompt=" ".join(line for _, line in text_lines(text)) if text.is_file() else "",
            references=[Reference(person=person, images=[str(image)]) for person, image in people.items()],
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

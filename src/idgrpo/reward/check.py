"""What can be wrong with a preference beyond its form: media that cannot be read, people on both sides of a split."""

from collections.abc import Callable, Sequence
from pathlib import Path

from idgrpo.errors import DataError
from idgrpo.records.models import Preference
from idgrpo.records.remember import remembered
from idgrpo.reward.data import clips_of, video_facts
from idgrpo.reward.splits import people_of
from idgrpo.video.read import read_image

MAX_NAMED = 20


class DataCheck:
    """Check the preferences of one data set, of one file or several, in turn; a refused one leaves no trace."""

    def __init__(self) -> None:
        self._split: tuple[str | None, str] | None = None
        self._people: dict[str, tuple[str, str]] = {}
        self._pairs: dict[str, str] = {}

    def of(self, path: Path) -> Callable[[Preference, int], str | None]:
        """Return the check of the lines of one file."""

        def check(preference: Preference, line: int) -> str | None:
            return self.problem(preference, f"{path}:{line}")

        return check

    def problem(self, preference: Preference, where: str) -> str | None:
        """Say what is wrong with the preference that stands at `where` ("prefs.jsonl:3"), or None."""
        problem = (
            self._twice(preference)
            or self._split_problem(preference)
            or one_clip_twice(preference)
            or media_problem(preference)
        )
        if problem is None:
            self._pairs[preference.pair_id] = where
            self._split = self._split or (preference.split, where)
            if preference.split is not None:
                for person in people_of(preference):
                    self._people.setdefault(person, (preference.split, where))
        return problem

    def _twice(self, preference: Preference) -> str | None:
        if preference.pair_id in self._pairs:
            return f"field 'pair_id': '{preference.pair_id}' stands already at {self._pairs[preference.pair_id]}"
        return None

    def _split_problem(self, preference: Preference) -> str | None:
        if self._split is not None and (self._split[0] is None) != (preference.split is None):
            has = "none" if preference.split is None else f"'{preference.split}'"
            other = "none" if self._split[0] is None else f"'{self._split[0]}'"
            return f"field 'split': {has} here, {other} at {self._split[1]}: give every pair a split or no pair"
        for person in sorted(people_of(preference)):
            split, where = self._people.get(person, (preference.split, ""))
            if split != preference.split:
                return f"field 'split': person {person} is in '{preference.split}' here, in '{split}' at {where}"
        return None


def one_clip_twice(preference: Preference) -> str | None:
    """Say that both sides of a pair are one clip, of which neither can be the better one; None where they are two."""
    return "field 'video_b': the same clip as video_a" if preference.video_a == preference.video_b else None


def media_problem(preference: Preference) -> str | None:
    """Name the first clip or photo of a pair that is missing, cut short or no picture at all, or None."""
    clips = dict(zip(("video_a", "video_b"), clips_of(preference), strict=True))
    for field, clip in clips.items():
        if problem := _video_problem(clip.video):
            return f"field '{field}': {problem}"
    for index, path in enumerate(clips["video_a"].photos):
        if problem := photo_problem(path):
            return f"field 'references.{index}.images': {problem}"
    return None


def check_media(preferences: Sequence[Preference]) -> None:
    """Raise one DataError that names the first 20 pairs whose media cannot be read."""
    problems = [(p.pair_id, problem) for p in preferences if (problem := media_problem(p))]
    if problems:
        listing = "\n  ".join(f"pair {pair_id}: {problem}" for pair_id, problem in problems[:MAX_NAMED])
        raise DataError(f"{len(problems)} pairs cannot be used:\n  {listing}")


# A clean clip stands in many pairs: each file is opened once.
@remembered(maxsize=1_000_000)
def _video_problem(path: str) -> str | None:
    try:
        video_facts(path)
    except DataError as error:
        return error.message
    return None


@remembered(maxsize=1_000_000)
def photo_problem(path: str) -> str | None:
    """Say why a photo cannot be read, or None."""
    try:
        read_image(Path(path))
    except DataError as error:
        return error.message
    return None

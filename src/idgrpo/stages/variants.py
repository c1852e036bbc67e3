"""What `evaluate` compares: finished samples, videos of any tool, or samples that are made now."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idgrpo.errors import DataError, IdgrpoError, UsageError
from idgrpo.formats import videos_in
from idgrpo.stages.cases import read_cases
from idgrpo.stages.settings import Settings
from idgrpo.stages.source import Given, Source, find
from idgrpo.store.store import Store

if TYPE_CHECKING:
    from idgrpo.records.models import Sample

TINY_SIDE_PX = 64


@dataclass(frozen=True)
class Variant:
    """The videos of one side of the comparison, and where they come from (None: a plan would have to make them)."""

    name: str
    samples: list["Sample"]
    source: Source | None
    origin: str


@dataclass(frozen=True)
class Sampling:
    """What to sample where no finished videos are given: a base alone, and with each policy."""

    base: str | None = None
    policies: Sequence[Given] = ()
    settings: Settings = None
    plan_only: bool = False
    share: bool = False


def collect(
    store: Store,
    samples: Mapping[str, Given],
    videos: Mapping[str, str | Path],
    cases: Given,
    sampling: Sampling,
) -> list[Variant]:
    """Read all variants, then sample those that are missing; UsageError when there is nothing to look at."""
    variants = [_from_samples(store, name, given) for name, given in samples.items()]
    if videos:
        source = find(store, "cases", cases)
        variants += [_from_videos(store, name, Path(folder), source) for name, folder in videos.items()]
    if sampling.base is not None:
        variants += _sampled(store, cases, sampling, {v.name for v in variants})
    elif sampling.policies:
        raise UsageError("--policy needs --base, the generator the policy was trained on")
    if not variants:
        raise UsageError(
            "nothing to evaluate",
            fix="say --samples base=REF --samples tuned=REF, or --videos name=FOLDER, or --cases C --base B --policy P",
        )
    names = [v.name for v in variants]
    if len(set(names)) < len(names):
        raise UsageError(
            f"two variants are called {max(names, key=names.count)!r}",
            fix="give them names: --samples base=REF --samples tuned=REF",
        )
    return variants


def named(texts: Sequence[str]) -> dict[str, str]:
    """Split name=value texts; the first without a name is the base, the second tuned. UsageError for a name twice."""
    found: dict[str, str] = {}
    for index, text in enumerate(texts):
        match = re.match(r"([A-Za-z][\w.-]*)=(.+)", text)
        name, value = match.groups() if match else (("base", "tuned")[index] if index < 2 else f"tuned{index}", text)
        if name in found:
            raise UsageError(
                f"two variants are called {name!r}", fix="give them names: --samples base=REF --samples tuned=REF"
            )
        found[name] = value
    return found


def named_curves(texts: Sequence[str]) -> dict[str, Path]:
    """Split name=FILE texts; a file alone is called by its folder."""
    split = [text.partition("=")[::2] if "=" in text else (Path(text).parent.name or text, text) for text in texts]
    return {name: Path(file) for name, file in split}


def _from_samples(store: Store, name: str, given: Given) -> Variant:
    source = find(store, "samples", given)
    found = read_samples(source)
    if not found:
        raise DataError(f"no samples in {source.records}", fix="make some with `idgrpo sample`")
    return Variant(name, found, source, source.ref)


def read_samples(given: Given, *, store: Store | None = None) -> "list[Sample]":
    """Read samples. Raises DataError naming file, line and field."""
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.models import Sample

    source = find(store or Store.default(), "samples", given)
    return list(read_records(source.records, Sample, unique="id"))


def _from_videos(store: Store, name: str, folder: Path, cases: Source) -> Variant:
    """Read a folder of videos whose names say the case, and the seed after `--s` or as a trailing number."""
    from idgrpo.records.models import Sample

    known = {case.id: case for case in read_cases(cases)}
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder of videos")
    found, strange = [], []
    for path in videos_in(folder.resolve()):
        case_id, seed = _case_and_seed(path.stem, known)
        if case_id is None:
            strange.append(path.name)
            continue
        case = known[case_id]
        found.append(
            Sample(
                id=path.stem,
                case_id=case.id,
                prompt=case.prompt,
                references=case.references,
                video=str(path),
                base=name,
                policy=None,
                seed=seed,
                sampler={},
            )
        )
    if strange or not found:
        what = (
            f"{len(strange)} videos of {folder} belong to no case (first: {strange[0]})"
            if strange
            else f"no videos in {folder}"
        )
        raise DataError(what, fix="call them <case id>.mp4 or <case id>--s<seed>.mp4, with the case ids of --cases")
    return Variant(name, found, find(store, "samples", folder.resolve()), str(folder))


def _case_and_seed(stem: str, known: Mapping[str, Any]) -> tuple[str | None, int]:
    if stem in known:
        return stem, 0
    match = re.fullmatch(r"(.+?)(?:--s|[-_])(\d+)", stem)
    if match and match[1] in known:
        return match[1], int(match[2])
    return None, 0


def _sampled(store: Store, cases: Given, sampling: Sampling, taken: set[str]) -> list[Variant]:
    """Sample the base and each policy on the same cases and seeds; what the store already has is not made again."""
    from idgrpo.stages.sample import sample

    one = len(sampling.policies) == 1
    sides: list[tuple[str, Given]] = [("base", None)]
    sides += [("tuned" if one else f"tuned{index + 1}", policy) for index, policy in enumerate(sampling.policies)]
    source = find(store, "cases", cases)
    made = []
    for name, policy in sides:
        if name in taken:
            continue
        work = sample.prepare(
            source, base=sampling.base, policy=policy, settings=sampling.settings, store=store, share=sampling.share
        )
        artifact = work.find() if sampling.plan_only else work.run()
        origin = f"{sampling.base} with {policy}" if policy is not None else str(sampling.base)
        if artifact is None:
            made.append(Variant(name, [], None, origin))
        else:
            found = find(store, "samples", artifact)
            made.append(Variant(name, read_samples(found), found, origin))
    return made


def default_finder(variants: Sequence[Variant]) -> str:
    """Choose the finder by the size of the first video: the embedded world's for clips of at most 64 pixels."""
    from idgrpo.video.probe import probe

    first = next((s for v in variants for s in v.samples if Path(s.video).is_file()), None)
    if first is None:
        return "facenet"
    info = probe(Path(first.video))
    return "tiny" if max(info.width, info.height) <= TINY_SIDE_PX else "facenet"


def default_scorers(variants: Sequence[Variant]) -> list[str]:
    """Report the analytic oracle beside the finder's measure where people and clips are the embedded world's.

    A base of full size may also be given its people, in clips that the oracle cannot read.
    """
    people = [r.person for v in variants for s in v.samples for r in s.references]
    is_known = bool(people) and all(re.fullmatch(r"tiny-\d+", p) for p in people)
    return ["identity_by_template"] if is_known and default_finder(variants) == "tiny" else []


def curves_of(
    store: Store, given: Mapping[str, str | Path], variants: Sequence[Variant]
) -> dict[str, list[dict[str, Any]]]:
    """Read curves given by file, and those that travel with the policies of the samples; measured times are left out."""
    from idgrpo.run.metrics import MetricsLog

    files: dict[str, Path] = {}
    for name, file in given.items():
        if not Path(file).is_file():
            raise DataError(f"no curves at {file}")
        files[name] = Path(file)
    for ref in dict.fromkeys(s.policy for v in variants for s in v.samples if s.policy) if not given else ():
        try:
            folder = find(store, "policy", ref).path
        except IdgrpoError:
            continue  # the policy may live elsewhere; its curves are a bonus, not an input
        files[ref] = folder / "metrics.jsonl"
    curves = {name: [_timeless(row) for row in MetricsLog.read(file)] for name, file in files.items()}
    return {name: rows for name, rows in curves.items() if rows}


def _timeless(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if "seconds" not in key and not key.endswith("_s")}

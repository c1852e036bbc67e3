"""What `idgrpo eval` looks at: finished samples, videos of any tool, or samples it makes itself."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from idgrpo.cli.eval_sampling import SamplingRequest
    from idgrpo.records.case import Case
    from idgrpo.records.sample import Sample
    from idgrpo.store.artifact import Artifact
    from idgrpo.store.store import Store

VIDEO_ENDINGS = (".mp4", ".webm", ".mov", ".mkv", ".avi")
TINY_SIDE_PX = 64


@dataclass(frozen=True)
class Variant:
    """Hold the videos of one side of the comparison and where they come from."""

    name: str
    samples: list["Sample"]
    source: "Artifact | Path | None"
    origin: str


def collect(shelf: "Store", samples: list[str], videos: list[str], request: "SamplingRequest") -> list[Variant]:
    """Read all variants, then sample those that are missing; UsageError when there is nothing to look at."""
    from idgrpo.errors import UsageError

    variants = [_from_samples(shelf, item, index) for index, item in enumerate(samples)]
    variants += [_from_videos(shelf, item, request.cases, index) for index, item in enumerate(videos)]
    if request.base is not None:
        variants += _sampled(shelf, request, {v.name for v in variants})
    elif request.policies:
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


def _named(text: str, index: int) -> tuple[str, str]:
    """Split name=value; the first without a name is the base, the second tuned."""
    match = re.match(r"([A-Za-z][\w.-]*)=(.+)", text)
    if match:
        return match[1], match[2]
    return ("base", "tuned")[index] if index < 2 else f"tuned{index}", text


def _from_samples(shelf: "Store", text: str, index: int) -> Variant:
    from idgrpo.errors import DataError
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.sample import Sample

    name, ref = _named(text, index)
    source = Path(ref).resolve() if Path(ref).is_file() else shelf.resolve(ref, kind="samples")
    path = source if isinstance(source, Path) else source.file("samples.jsonl")
    found = list(read_records(path, Sample, unique="id"))
    if not found:
        raise DataError(f"no samples in {path}", fix="make some with `idgrpo sample`")
    return Variant(name, found, source, str(path) if isinstance(source, Path) else source.ref)


def _read_cases(shelf: "Store", cases: str | None) -> "dict[str, Case]":
    from idgrpo.records.jsonl import read_cases

    path = (
        Path(cases)
        if cases and Path(cases).is_file()
        else shelf.resolve(cases or "cases", kind="cases").file("cases.jsonl")
    )
    return {case.id: case for case in read_cases(path)}


def _from_videos(shelf: "Store", text: str, cases: str | None, index: int) -> Variant:
    """Read a folder of videos whose names say the case, and the seed after `--s` or as a trailing number."""
    from idgrpo.errors import DataError
    from idgrpo.records.sample import Sample

    name, folder = _named(text, index)
    known = _read_cases(shelf, cases)
    if not Path(folder).is_dir():
        raise DataError(f"{folder} is no folder of videos")
    found, strange = [], []
    for path in sorted(p for p in Path(folder).resolve().iterdir() if p.suffix.lower() in VIDEO_ENDINGS):
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
    return Variant(name, found, Path(folder).resolve(), folder)


def _case_and_seed(stem: str, known: "dict[str, Case]") -> tuple[str | None, int]:
    if stem in known:
        return stem, 0
    match = re.fullmatch(r"(.+?)(?:--s|[-_])(\d+)", stem)
    if match and match[1] in known:
        return match[1], int(match[2])
    return None, 0


def _sampled(shelf: "Store", request: "SamplingRequest", taken: set[str]) -> list[Variant]:
    """Sample the base and each policy on the same cases and seeds; what the store already has is not made again."""
    from idgrpo.cli.eval_sampling import sample_variant

    one = len(request.policies) == 1
    sides: list[tuple[str, str | None]] = [("base", None)]
    sides += [("tuned" if one else f"tuned{index + 1}", policy) for index, policy in enumerate(request.policies)]
    made = []
    for name, policy in sides:
        if name not in taken:
            source, found = sample_variant(shelf, request, policy)
            made.append(Variant(name, found, source, f"{request.base} with {policy}" if policy else str(request.base)))
    return made


def default_finder(variants: list[Variant]) -> str:
    """Choose the finder by the size of the first video: the embedded world's for clips of at most 64 pixels."""
    from idgrpo.video.probe import probe

    first = next((s for v in variants for s in v.samples if Path(s.video).is_file()), None)
    if first is None:
        return "facenet"
    info = probe(Path(first.video))
    return "tiny" if max(info.width, info.height) <= TINY_SIDE_PX else "facenet"


def default_scorers(variants: list[Variant]) -> list[str]:
    """Report the analytic oracle beside the finder's measure wherever all people belong to the embedded world."""
    people = [r.person for v in variants for s in v.samples for r in s.references]
    return ["identity_by_template"] if people and all(re.fullmatch(r"tiny-\d+", p) for p in people) else []


def curves_of(shelf: "Store", given: list[str], variants: list[Variant]) -> dict[str, list[dict[str, Any]]]:
    """Read curves given by file, and those that travel with the policies of the samples."""
    from idgrpo.errors import DataError, IdgrpoError
    from idgrpo.run.metrics import MetricsLog

    curves = {}
    for index, text in enumerate(given):
        name, file = _named(text, index) if "=" in text else (Path(text).parent.name or text, text)
        if not Path(file).is_file():
            raise DataError(f"no curves at {file}")
        curves[name] = list(MetricsLog.read(Path(file)))
    for ref in dict.fromkeys(s.policy for v in variants for s in v.samples if s.policy) if not given else ():
        try:
            folder = Path(ref) if Path(ref).is_dir() else shelf.resolve(ref, kind="policy").path
        except IdgrpoError:
            continue  # the policy may live elsewhere; its curves are a bonus, not an input
        rows = list(MetricsLog.read(folder / "metrics.jsonl"))
        if rows:
            curves[ref] = rows
    return curves

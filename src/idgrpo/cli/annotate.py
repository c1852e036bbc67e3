"""`idgrpo annotate`: pairs (or samples, made into pairs) -> votes -> preferences."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from idgrpo.cli.options import (
    ConfigOption,
    DryRunOption,
    ForceOption,
    JsonOption,
    NameOption,
    QuietOption,
    SeedOption,
    SetOption,
    StoreOption,
)

if TYPE_CHECKING:
    from idgrpo.annotate.config import AnnotateConfig
    from idgrpo.records.pair import Pair
    from idgrpo.records.sample import Sample
    from idgrpo.store.artifact import Artifact
    from idgrpo.store.store import Store

PairsOption = Annotated[str | None, typer.Option(help="Pairs to vote on: a store reference or a pairs.jsonl.")]
SamplesOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Samples to make pairs of: a reference or a samples.jsonl; may be repeated. Default: the newest."
    ),
]
ByOption = Annotated[
    Literal["people", "oracle", "judge"],
    typer.Option(help="Who votes: people (a web page), judge (models, see --judge), or oracle (simulated annotators)."),
]
JudgeOption = Annotated[
    list[str] | None,
    typer.Option("--judge", help="A judge: a reward model (such as rm), or a Qwen-VL checkpoint; may be repeated."),
]
VotesOption = Annotated[
    list[str] | None,
    typer.Option(help="Take these votes (a reference or a votes.jsonl; may be repeated): nobody votes."),
]
GoldOption = Annotated[
    str | None, typer.Option(help="Pairs with known answers to mix in: a reference or a prefs.jsonl (people only).")
]
LeastSureOption = Annotated[
    str | None,
    typer.Option("--least-sure", help="Keep the pairs this reward model is least sure of (with pairs.per_case)."),
]
HostOption = Annotated[str | None, typer.Option(help="Address to listen on. Default: this machine only.")]
PortOption = Annotated[int | None, typer.Option(help="Port to listen on; 0: any free one. Default: 8080.")]
AnnotatorOption = Annotated[
    list[str] | None, typer.Option("--annotator", help="Make a one-time link for this person; may be repeated.")
]
TranscodeOption = Annotated[bool, typer.Option("--transcode", help="Re-encode clips that browsers cannot play.")]
SEEDED = ("pairs", "oracle", "judge", "queue", "agreement")


@dataclass(frozen=True)
class Job:
    """What one call works with."""

    store: "Store"
    name: str
    by: str
    settings: "AnnotateConfig"
    force: bool
    options: dict[str, Any] = field(default_factory=dict)


def command(
    pairs: PairsOption = None,
    samples: SamplesOption = None,
    by: ByOption = "people",
    judge: JudgeOption = None,
    votes: VotesOption = None,
    least_sure: LeastSureOption = None,
    gold: GoldOption = None,
    host: HostOption = None,
    port: PortOption = None,
    annotator: AnnotatorOption = None,
    transcode: TranscodeOption = False,
    store: StoreOption = None,
    name: NameOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare clips pair by pair, and turn the votes into preferences."""
    from idgrpo.annotate.config import AnnotateConfig
    from idgrpo.annotate.stage import summary_lines
    from idgrpo.cli.output import finish
    from idgrpo.errors import UsageError
    from idgrpo.run.config import load_config
    from idgrpo.store.store import Store

    if pairs and samples:
        raise UsageError("--pairs and --samples were both given", fix="give one: pairs are made of samples")
    seeds = [] if seed is None else [f"{part}.seed={seed}" for part in SEEDED]
    served = [f"serve.{key}={value}" for key, value in (("host", host), ("port", port)) if value is not None]
    settings = load_config(AnnotateConfig, config, [*(sets or []), *seeds, *served])
    if least_sure and (pairs or settings.pairs.per_case is None):
        raise UsageError(
            "--least-sure chooses among the pairs of each case", fix="add --set pairs.per_case=2, and give --samples"
        )
    if judge and by != "judge":
        raise UsageError("--judge names who judges", fix="add --by judge")
    options = {
        "least_sure": least_sure, "gold": gold, "annotators": annotator or [], "transcode": transcode, "judges": judge or []
    }  # fmt: skip
    job = Job(Store(Path(store)) if store else Store.default(), name or by, by, settings, force, options)
    if dry_run:
        finish(**_plan(job, pairs, samples), artifact=None, quiet=quiet, as_json=as_json)
        return
    origin, records = _pairs(job, pairs, samples)
    vote_inputs, known = _votes(job, origin, records, votes)
    artifact = _preferences(job, origin, records, vote_inputs, known)
    facts = artifact.manifest.metrics
    document = {
        "artifact": artifact.ref,
        "path": str(artifact.path),
        "votes_from": [item.ref for item in vote_inputs if hasattr(item, "ref")],
        **facts,
    }
    summary = summary_lines(facts, artifact.ref)
    finish(summary=summary, document=document, artifact=artifact, quiet=quiet, as_json=as_json)


def _find(job: Job, ref: str, kind: str) -> "Artifact | Path":
    """A file as it is; anything else is looked up in the store."""
    from idgrpo.errors import DataError

    path = Path(ref)
    if path.is_file():
        return path.resolve()
    if path.suffix == ".jsonl":
        raise DataError(f"{ref}: there is no such file", fix=f"give a file of {kind}, or a reference of the store")
    return job.store.resolve(ref, kind=kind)


def _records_file(source: "Artifact | Path", name: str) -> Path:
    return source if isinstance(source, Path) else source.file(name)


def _read_samples(sources: "list[Artifact | Path]") -> "list[Sample]":
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.sample import Sample

    return [sample for source in sources for sample in read_records(_records_file(source, "samples.jsonl"), Sample)]


def _sources(job: Job, samples: list[str] | None) -> "list[Artifact | Path]":
    return [_find(job, ref, "samples") for ref in samples or ["samples"]]


def _pairs(job: Job, pairs: str | None, samples: list[str] | None) -> "tuple[Artifact | Path, list[Pair]]":
    """Read the pairs given, or make and publish those of the samples."""
    from idgrpo.annotate.pairs import make_pairs
    from idgrpo.records.jsonl import read_records, write_records
    from idgrpo.records.pair import Pair

    if pairs:
        origin = _find(job, pairs, "pairs")
        return origin, list(read_records(_records_file(origin, "pairs.jsonl"), Pair, unique="pair_id"))
    sources = _sources(job, samples)
    judge = job.store.resolve(job.options["least_sure"], kind="rm") if job.options.get("least_sure") else None
    inputs = {f"samples{i}": source for i, source in enumerate(sources)} | ({"rm": judge} if judge else {})
    config = job.settings.pairs
    resolved = config.model_dump(mode="json")
    artifact = None if job.force else job.store.find("pairs", job.name, inputs=inputs, config=resolved)
    if artifact is None:
        members = _read_samples(sources)
        scores = _scores(judge.path, members) if judge else None
        records = list(make_pairs(members, config, scores=scores))
        with job.store.publish("pairs", job.name, inputs=inputs, config=resolved) as draft:
            draft.metrics["pairs"] = write_records(draft.path / "pairs.jsonl", records)
        artifact = draft.artifact
    return artifact, list(read_records(artifact.file("pairs.jsonl"), Pair, unique="pair_id"))


def _scores(model: Path, samples: "list[Sample]") -> dict[str, float]:
    """Score every sample by a reward model: sample id -> score."""
    from idgrpo.errors import DataError
    from idgrpo.reward.score import RewardModel
    from idgrpo.run.progress import progress
    from idgrpo.video.read import read_image, read_video

    reward = RewardModel.load(model)
    scores: dict[str, float] = {}
    with progress(len(samples), "scoring clips", "clips") as bar:
        for sample in samples:
            photos = [read_image(reference.images[0]) for reference in sample.references]
            (score,) = reward.score([read_video(sample.video)], [photos], [sample.prompt])
            if not isinstance(score, float):
                raise DataError(
                    f"sample {sample.id!r} cannot be scored: {score}", fix="leave it out, or leave out --least-sure"
                )
            scores[sample.id] = score
            bar.advance()
    return scores


def _votes(
    job: Job, origin: "Artifact | Path", pairs: "list[Pair]", votes: list[str] | None
) -> "tuple[list[Artifact | Path], dict[str, str]]":
    """Give the votes to count, and the known labels of gold pairs."""
    if votes:
        return [_find(job, ref, "votes") for ref in votes], {}
    return VOTING[job.by](job, origin, pairs)


def _by_oracle(
    job: Job, origin: "Artifact | Path", pairs: "list[Pair]"
) -> "tuple[list[Artifact | Path], dict[str, str]]":
    from idgrpo.annotate.oracle import simulate_votes
    from idgrpo.records.jsonl import write_records
    from idgrpo.run.progress import progress

    inputs = {"pairs": origin}
    resolved = {"by": "oracle", "oracle": job.settings.oracle.model_dump(mode="json")}
    artifact = None if job.force else job.store.find("votes", job.name, inputs=inputs, config=resolved)
    if artifact is None:
        from idgrpo.tinyworld.oracle import pair_gap

        with progress(len(pairs), "simulated annotators", "pairs") as bar:

            def gap(pair: "Pair") -> float:
                value = pair_gap(pair)
                bar.advance()
                return value

            with job.store.publish("votes", job.name, inputs=inputs, config=resolved) as draft:
                votes = simulate_votes(pairs, gap, job.settings.oracle)
                draft.metrics["votes"] = write_records(draft.path / "votes.jsonl", votes)
        artifact = draft.artifact
    return [artifact], {}


def _by_people(
    job: Job, origin: "Artifact | Path", pairs: "list[Pair]"
) -> "tuple[list[Artifact | Path], dict[str, str]]":
    """Serve the page until Ctrl-C, then publish what was voted. The session lives in a run folder and can go on."""

    from idgrpo.annotate.session import serve_session
    from idgrpo.errors import StoppedError
    from idgrpo.records.jsonl import write_records
    from idgrpo.run.folder import RunFolder
    from idgrpo.run.signals import StopSignal

    folder = job.store.run_dir(f"annotate-{job.name}")
    again = f"idgrpo annotate --name {job.name} with the same pairs goes on"
    with RunFolder.open(folder, fingerprint={"stage": "annotate"}, resume=True) as run, StopSignal() as stop:
        gathered = serve_session(
            pairs, run.path, job.settings.queue, job.settings.serve, gold=_gold(job), annotators=job.options["annotators"],
            transcode=job.options["transcode"], tell=lambda line: typer.echo(f"{line}  (Ctrl-C ends)", err=True),
            should_stop=lambda: stop.requested,
        )  # fmt: skip
        if not gathered.votes:
            raise StoppedError("stopped before the first vote: nothing to publish", fix=again)
        inputs = {"pairs": origin}
        resolved = {"by": "people", "queue": job.settings.queue.model_dump(mode="json")}
        with job.store.publish("votes", job.name, inputs=inputs, config=resolved) as draft:
            draft.metrics["votes"] = write_records(draft.path / "votes.jsonl", gathered.votes)
    return [draft.artifact], gathered.gold


def _by_judge(
    job: Job, origin: "Artifact | Path", pairs: "list[Pair]"
) -> "tuple[list[Artifact | Path], dict[str, str]]":
    """Let models vote; an interrupted session goes on by itself when the same command runs again."""
    import shutil

    from idgrpo.cli.judges import find_judges, judge_digests, judge_session, load_judges, session_name
    from idgrpo.errors import StoppedError
    from idgrpo.records.jsonl import write_records
    from idgrpo.run.folder import RunFolder
    from idgrpo.run.signals import StopSignal

    config = job.settings.judge
    found = find_judges(job.store, job.options["judges"])
    inputs = {
        "pairs": origin,
        **{f"judge{i}": one for i, one in enumerate(found.values()) if not isinstance(one, Path)},
    }
    resolved = {
        "by": "judge",
        "judges": judge_digests(found),
        "judge": config.model_dump(mode="json", exclude={"device"}),
    }
    artifact = None if job.force else job.store.find("votes", job.name, inputs=inputs, config=resolved)
    if artifact is None:
        folder = job.store.run_dir(session_name(job.name, resolved, pairs))
        if job.force:
            shutil.rmtree(folder, ignore_errors=True)
        with RunFolder.open(folder, fingerprint={"stage": "judge"}, resume=True) as run, StopSignal() as stop:

            def check() -> None:
                if stop.requested:
                    raise StoppedError("stopped; the pairs judged so far are kept", fix="run the same command again")

            votes = judge_session(pairs, load_judges(found, config), config, run.path, check)
            with job.store.publish("votes", job.name, inputs=inputs, config=resolved) as draft:
                draft.metrics["votes"] = write_records(draft.path / "votes.jsonl", votes)
        artifact = draft.artifact
    return [artifact], {}


def _gold(job: Job) -> "list[tuple[Pair, str]]":
    """Read pairs whose answer is known."""
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.pair import Pair
    from idgrpo.records.preference import Preference

    if job.options["gold"] is None:
        return []
    source = _find(job, job.options["gold"], "preferences")
    known = read_records(_records_file(source, "prefs.jsonl"), Preference, unique="pair_id")
    return [(Pair(**{name: getattr(item, name) for name in Pair.model_fields}), item.label) for item in known]


VOTING: dict[str, Callable[..., Any]] = {"people": _by_people, "oracle": _by_oracle, "judge": _by_judge}


def _preferences(
    job: Job, origin: "Artifact | Path", pairs: "list[Pair]", votes: "list[Artifact | Path]", gold: dict[str, str]
) -> "Artifact":
    from idgrpo.annotate.stage import conclude
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.vote import Vote

    settings = job.settings
    inputs = {"pairs": origin, **{f"votes{i}": source for i, source in enumerate(votes)}}
    resolved = {"by": job.by, "gold": gold, **settings.model_dump(mode="json", include={"aggregate", "agreement"})}
    artifact = None if job.force else job.store.find("preferences", job.name, inputs=inputs, config=resolved)
    if artifact is not None:
        return artifact
    cast = (vote for source in votes for vote in read_records(_records_file(source, "votes.jsonl"), Vote))
    with job.store.publish("preferences", job.name, inputs=inputs, config=resolved) as draft:
        draft.metrics.update(conclude(pairs, cast, settings, draft.path, by=job.by, gold=gold))
    return draft.artifact


def _plan(job: Job, pairs: str | None, samples: list[str] | None) -> dict[str, Any]:
    """Say what would be read and written."""
    from idgrpo.annotate.pairs import make_pairs
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.pair import Pair

    if pairs:
        sources = [_find(job, pairs, "pairs")]
        num = sum(1 for _ in read_records(_records_file(sources[0], "pairs.jsonl"), Pair))
    else:
        sources = _sources(job, samples)
        num = sum(1 for _ in make_pairs(_read_samples(sources), job.settings.pairs))
    reads = [str(source) if isinstance(source, Path) else source.ref for source in sources]
    kinds = ("votes", "preferences") if pairs else ("pairs", "votes", "preferences")
    writes = [f"{kind}/{job.name}" for kind in kinds]
    summary = [
        f"would read   {', '.join(reads)}",
        f"would ask    {job.by} about {num} pairs",
        f"would write  {', '.join(writes)}",
    ]
    document = {
        "dry_run": True,
        "reads": reads,
        "writes": writes,
        "pairs": num,
        "by": job.by,
        "config": job.settings.model_dump(mode="json"),
    }
    return {"summary": summary, "document": document}

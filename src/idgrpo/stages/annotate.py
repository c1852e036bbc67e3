"""The `annotate` stage: samples -> pairs -> votes of people, models or simulated annotators -> preferences."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from idgrpo.errors import DataError, StoppedError, UsageError
from idgrpo.records.document import parse_json
from idgrpo.run.folder import refuse_if_held
from idgrpo.stages.settings import Settings, settle
from idgrpo.stages.source import Given, Source, find
from idgrpo.stages.work import Plan, Run, Stage, Work
from idgrpo.stages.work import tell as to_stderr
from idgrpo.store.artifact import Artifact
from idgrpo.store.store import Store

if TYPE_CHECKING:
    from idgrpo.annotate.config import AnnotateConfig
    from idgrpo.records.models import Pair, Sample

Voters = Literal["people", "oracle", "judge"]
GOLD_FILE = "gold.json"
"""In a votes artifact: the known labels of its gold pairs, pair id -> label."""

GUIDELINES_FILE = "guidelines.md"
"""In a votes artifact: what annotators were told, if the organiser wrote it."""


@Stage
def annotate(
    samples: Sequence[Given] = (),
    *,
    pairs: Given = None,
    by: Voters = "people",
    judges: Sequence[str] = (),
    votes: Sequence[Given] = (),
    gold: Given = None,
    practice: Given = None,
    least_sure: Given = None,
    annotators: Sequence[str] = (),
    transcode: bool = False,
    settings: Settings = None,
    name: str | None = None,
    store: Store | None = None,
    force: bool = False,
    resume: bool = False,
    share: bool = False,
    tell: Callable[[str], None] | None = None,
) -> "Annotation":
    """Compare clips pair by pair, and publish pairs, votes and preferences; give the preferences.

    Args:
        samples: samples to make pairs of; none given means the newest, unless `pairs` are given.
        by: who votes: people in a web page (until a stop is asked for), models, or simulated annotators.
        judges: with `by="judge"`: reward models or vision-language checkpoints.
        votes: take these votes; nobody votes.
        gold: preferences whose label is known, mixed among the pairs that people see.
        practice: preferences whose label is known, shown to everybody first with feedback; they give no votes.
        least_sure: reward model; of each case the pairs it is least sure of are kept (with `pairs.per_case`).
        annotators: people who get a one-time link each.
        transcode: re-encode clips that browsers cannot play.
        share: judge the pairs together with other processes that make the same call on this store.
        tell: takes the address of the page and the links; None writes them to stderr.
    """
    from idgrpo.annotate.config import AnnotateConfig

    store = store or Store.default()
    settled = settle(AnnotateConfig, settings)
    if pairs is not None and samples:
        raise UsageError("--pairs and --samples were both given", fix="give one: pairs are made of samples")
    if least_sure is not None and (pairs is not None or settled.pairs.per_case is None):
        raise UsageError(
            "--least-sure chooses among the pairs of each case", fix="add --set pairs.per_case=2, and give --samples"
        )
    if share and by != "judge":
        raise UsageError("--share is for judges: people and simulated annotators vote in one process", fix="--by judge")
    if judges and by != "judge":
        raise UsageError("--judge names who judges", fix="add --by judge")
    if settled.ask_people and by == "judge":
        raise UsageError("ask_people is for people and the oracle: models are not asked", fix="--set ask_people=false")
    return Annotation(
        store, name or by, by, settled,
        samples=() if pairs is not None else tuple(find(store, "samples", one) for one in samples or (None,)),
        pairs=None if pairs is None else find(store, "pairs", pairs),
        votes=tuple(find(store, "votes", one) for one in votes),
        gold=None if gold is None else find(store, "preferences", gold),
        practice=None if practice is None else find(store, "preferences", practice),
        least_sure=None if least_sure is None else find(store, "rm", least_sure),
        judges=tuple(judges), annotators=tuple(annotators), transcode=transcode, tell=tell or to_stderr,
        force=force, resume=resume, share=share,
    )  # fmt: skip


@dataclass(frozen=True)
class Annotation:
    """Three pieces of work, one after the other: pairs, votes, preferences."""

    store: Store
    name: str
    by: Voters
    settings: "AnnotateConfig"
    samples: tuple[Source, ...]
    pairs: Source | None
    votes: tuple[Source, ...]
    gold: Source | None
    practice: Source | None
    least_sure: Source | None
    judges: tuple[str, ...]
    annotators: tuple[str, ...]
    transcode: bool
    tell: Callable[[str], None] = field(repr=False)
    force: bool
    resume: bool
    share: bool = False

    def is_done(self) -> bool:
        """Tell that something may be left to do: which, the three pieces find out one after the other."""
        return False

    def run(self) -> Artifact:
        """Do all three; what exists is not made again, and a stopped session goes on.

        Errors: BusyError, before anything is published, when a session of this name is open.
        """
        if self.by == "people" and not self.votes:
            for folder in self.store.root.glob(f"runs/annotate-{self.name}-*"):
                refuse_if_held(folder)
        pairs = self.pairs or find(self.store, "pairs", self._pairs().run())
        cast = self.votes or (find(self.store, "votes", VOTING[self.by](self, pairs).run()),)
        return self._preferences(pairs, cast).run()

    def plan(self) -> Plan:
        """Say what would be read, asked and written."""
        from idgrpo.annotate.pairs import make_pairs

        sources = [self.pairs] if self.pairs else list(self.samples)
        kinds = ("votes", "preferences") if self.pairs else ("pairs", "votes", "preferences")
        if self.pairs:
            num = len(_read_pairs(self.pairs))
        else:
            num = sum(1 for _ in make_pairs(_read_samples(self.samples), self.settings.pairs))
        reads, writes = [source.ref for source in sources], [f"{kind}/{self.name}" for kind in kinds]
        summary = [
            f"would read   {', '.join(reads)}",
            f"would ask    {self.by} about {num} pairs",
            f"would write  {', '.join(writes)}",
        ]
        config = self.settings.model_dump(mode="json")
        document = {"dry_run": True, "reads": reads, "writes": writes, "pairs": num, "by": self.by, "config": config}
        return Plan(summary, document)

    def work(
        self, stage: str, kind: str, inputs: Mapping[str, Source], config: dict[str, Any], make: Callable[[Run], None],
        **options: Any,
    ) -> Work:  # fmt: skip
        """Give one of the three pieces."""
        return Work(
            self.store,
            stage,
            kind,
            self.name,
            inputs,
            config,
            make,
            self.plan,
            **{"force": self.force, "resume": self.resume, "share": self.share} | options,
        )

    def _pairs(self) -> Work:
        from idgrpo.annotate.pairs import make_pairs
        from idgrpo.records.jsonl import write_records

        def make(run: Run) -> None:
            members = _read_samples(self.samples)
            scores = _scores(self.least_sure, members) if self.least_sure else None
            records = make_pairs(members, self.settings.pairs, scores=scores)
            run.out.metrics["pairs"] = write_records(run.out.path / "pairs.jsonl", records)

        inputs = {f"samples{i}": source for i, source in enumerate(self.samples)}
        inputs |= {"rm": self.least_sure} if self.least_sure else {}
        return self.work("annotate-pairs", "pairs", inputs, self.settings.pairs.model_dump(mode="json"), make)

    def _preferences(self, pairs: Source, votes: Sequence[Source]) -> Work:
        from idgrpo.annotate.doubts import vote_check
        from idgrpo.annotate.stage import conclude
        from idgrpo.records.jsonl import read_records
        from idgrpo.records.models import Vote

        def make(run: Run) -> None:
            cast = (vote for source in votes for vote in read_records(source.records, Vote, check=vote_check()))
            gold = {pair: label for source in votes for pair, label in _gold_labels(source).items()}
            found = conclude(_read_pairs(pairs), cast, self.settings, run.out.path, by=self.by, gold=gold)
            run.out.metrics.update(found)
            for doubt in found.get("doubts", []):
                to_stderr(f"warning: {doubt}")

        inputs = {"pairs": pairs, **{f"votes{i}": source for i, source in enumerate(votes)}}
        config = {"by": self.by, **self.settings.model_dump(mode="json", include={"aggregate", "agreement"})}
        return self.work("annotate-preferences", "preferences", inputs, config, make)


def _by_oracle(job: Annotation, pairs: Source) -> Work:
    """Let simulated annotators vote, who see the truth of the embedded world through noise and habits."""

    def make(run: Run) -> None:
        from idgrpo.annotate.oracle import simulate_votes
        from idgrpo.records.jsonl import write_records
        from idgrpo.run.progress import progress
        from idgrpo.tinyworld.oracle import pair_fates, pair_gap

        asked = _read_pairs(pairs)
        with progress(len(asked), "simulated annotators", "pairs") as bar:

            def gap(pair: "Pair") -> float:
                value = pair_gap(pair)
                bar.advance()
                return value

            fates = pair_fates if job.settings.ask_people else None
            votes = simulate_votes(asked, gap, job.settings.oracle, fates)
            run.out.metrics["votes"] = write_records(run.out.path / "votes.jsonl", votes)

    config = {"by": "oracle", "oracle": job.settings.oracle.model_dump(mode="json"), **_asked(job)}
    return job.work("annotate-oracle", "votes", {"pairs": pairs}, config, make)


def _by_people(job: Annotation, pairs: Source) -> Work:
    """Serve the page until a stop is asked for, then publish what was voted; the session stays and can go on."""

    def make(run: Run) -> None:
        from idgrpo.annotate.guidelines import read_guidelines
        from idgrpo.annotate.session import serve_session
        from idgrpo.records.jsonl import write_records
        from idgrpo.run.signals import StopSignal

        with StopSignal() as stop:
            gathered = serve_session(
                _read_pairs(pairs), run.path, job.settings.queue, job.settings.serve, gold=_known_pairs(job.gold), practice=_known_pairs(job.practice),
                annotators=job.annotators, transcode=job.transcode, ask_people=job.settings.ask_people, tell=lambda line: job.tell(f"{line}  (Ctrl-C ends)"),
                should_stop=lambda: stop.requested,
            )  # fmt: skip
        if not gathered.votes:
            raise StoppedError(
                "stopped before the first vote: nothing to publish",
                fix=f"idgrpo annotate --name {job.name} with the same pairs goes on",
            )
        run.out.metrics["votes"] = write_records(run.out.path / "votes.jsonl", gathered.votes)
        if text := read_guidelines(job.settings.serve.guidelines):
            (run.out.path / GUIDELINES_FILE).write_text(text, encoding="utf-8")
        if gathered.gold:
            (run.out.path / GOLD_FILE).write_text(json.dumps(gathered.gold, indent=1, sort_keys=True) + "\n")

    # Everything but the length of a lease decides who sees what: other settings are another session.
    config = {"by": "people", "queue": job.settings.queue.model_dump(mode="json", exclude={"lease_s"}), **_asked(job)}
    inputs = {"pairs": pairs} | ({"gold": job.gold} if job.gold else {})
    inputs |= {"practice": job.practice} if job.practice else {}
    work = job.work("annotate", "votes", inputs, config, make, forget=lambda folder: None, reuse=False, resume=True)
    _tell_other_sessions(job, work)
    return work


def _asked(job: Annotation) -> dict[str, bool]:
    """Say that people were asked about: settings of older votes stay what they were."""
    return {"ask_people": True} if job.settings.ask_people else {}


def _tell_other_sessions(job: Annotation, work: Work) -> None:
    """Say that a session with other pairs or settings has the same name: it is kept, and not what goes on now."""
    others = [
        path for path in work.folder.parent.glob(f"annotate-{work.name}-*/session.sqlite") if path.parent != work.folder
    ]
    if others and not work.folder.exists():
        job.tell(
            f"a new session begins: {len(others)} older ones called '{work.name}' have other pairs or settings "
            f"({', '.join(str(path.parent) for path in others)}); to go on with one, give its pairs with --pairs"
        )


def _by_judge(job: Annotation, pairs: Source) -> Work:
    """Let models vote; an interrupted session goes on by itself when the same call is made again."""
    from idgrpo.stages.judging import find_judges, judge_session

    config, found = job.settings.judge, find_judges(job.store, job.judges)

    def make(run: Run) -> None:
        from idgrpo.records.jsonl import write_records
        from idgrpo.run.signals import StopSignal

        placed = config.model_copy(update={"device": run.device(None if config.device == "auto" else config.device)})
        with StopSignal() as stop:
            judges = [one.load(placed) for one in found]
            votes = judge_session(_read_pairs(pairs), judges, placed, run.path, stop.check, run.dealing)
        if run.publishes:
            run.out.metrics["votes"] = write_records(run.out.path / "votes.jsonl", votes)

    sources = [one.source for one in found]
    inputs = {"pairs": pairs, **{f"judge{i}": source for i, source in enumerate(sources) if source is not None}}
    names, pins = [one.name for one in found], {one.name: one.pin for one in found if one.pin}
    resolved = {"by": "judge", "judges": names, "judge": config.model_dump(mode="json", exclude={"device"})}
    resolved |= {"pins": pins} if pins else {}
    return job.work("annotate-judge", "votes", inputs, resolved, make, ranks="deal")


VOTING: dict[str, Callable[[Annotation, Source], Work]] = {
    "people": _by_people, "oracle": _by_oracle, "judge": _by_judge
}  # fmt: skip


def _read_pairs(source: Source) -> "list[Pair]":
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.models import Pair

    return list(read_records(source.records, Pair, unique="pair_id"))


def _read_samples(sources: Sequence[Source]) -> "list[Sample]":
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.models import Sample

    return [sample for source in sources for sample in read_records(source.records, Sample)]


def _known_pairs(source: Source | None) -> "list[tuple[Pair, str]]":
    """Read pairs whose answer is known."""
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.models import Pair, Preference

    if source is None:
        return []
    known = read_records(source.records, Preference, unique="pair_id")
    return [(Pair(**{name: getattr(item, name) for name in Pair.model_fields}), item.label) for item in known]


def _gold_labels(votes: Source) -> dict[str, str]:
    """Read the known labels that travel with votes."""
    file = votes.records.parent / GOLD_FILE
    return parse_json(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _scores(model: Source, samples: "list[Sample]") -> dict[str, float]:
    """Score every sample by a reward model: sample id -> score."""
    from idgrpo.reward.score import RewardModel
    from idgrpo.run.progress import progress
    from idgrpo.video.probe import probe
    from idgrpo.video.read import read_image, read_video

    reward = RewardModel.load(model.path)
    scores: dict[str, float] = {}
    with progress(len(samples), "scoring clips", "clips") as bar:
        for sample in samples:
            photos = [read_image(reference.images[0]) for reference in sample.references]
            (score,) = reward.score(
                [read_video(sample.video)], [photos], [sample.prompt], float(probe(sample.video).fps)
            )
            if not isinstance(score, float):
                raise DataError(
                    f"sample {sample.id!r} cannot be scored: {score}", fix="leave it out, or leave out --least-sure"
                )
            scores[sample.id] = score
            bar.advance()
    return scores


def result(artifact: Artifact) -> Plan:
    """Tell what came of the votes: labels, agreement, who to look at."""
    from idgrpo.annotate.stage import summary_lines

    facts = artifact.manifest.metrics
    votes = [entry.ref for key, entry in artifact.manifest.inputs.items() if key.startswith("votes")]
    document = {"artifact": artifact.ref, "path": str(artifact.path), "votes_from": votes, **facts}
    return Plan(summary_lines(facts, artifact.ref), document)

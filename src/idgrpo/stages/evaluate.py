"""The `eval` stage: videos of a base and of tuned policies -> a report with intervals, verdicts and players."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idgrpo.errors import UsageError
from idgrpo.evaluate.gates import GateResult
from idgrpo.run.config import to_toml
from idgrpo.stages.lineage import provenance
from idgrpo.stages.rewards import RewardSource, find_rewards
from idgrpo.stages.settings import Settings, settle
from idgrpo.stages.source import Given, Source, find
from idgrpo.stages.variants import Sampling, Variant, collect, curves_of, default_finder, default_scorers
from idgrpo.stages.work import Plan, Run, Stage, Work
from idgrpo.store.artifact import Artifact
from idgrpo.store.manifest import canonical
from idgrpo.store.store import Store

if TYPE_CHECKING:
    from idgrpo.evaluate.config import EvaluateConfig, PairLaw
    from idgrpo.evaluate.document import Report
    from idgrpo.evaluate.scorer import ClipScorer

REWARD = "reward"
"""What the score of a reward is called in a report, where it is the only one."""


@Stage
def evaluate(
    samples: Mapping[str, Given] | None = None,
    *,
    videos: Mapping[str, str | Path] | None = None,
    cases: Given = None,
    base: str | None = None,
    policies: Sequence[Given] = (),
    sampling: Settings = None,
    reward: Given | Mapping[str, Given] = None,
    curves: Mapping[str, str | Path] | None = None,
    settings: Settings = None,
    gates: "Gates | None" = None,
    name: str | None = None,
    store: Store | None = None,
    force: bool = False,
    share: bool = False,
    plan_only: bool = False,
) -> Work:
    """Measure who is who in videos, compare the variants with the base, and publish the report.

    Args:
        samples: finished samples by name; the one called "base" (else the first) is what others are compared with.
        videos: folders of finished videos of any tool by name, files `<case>.mp4` or `<case>--s<seed>.mp4`; with `cases`.
        base, policies, sampling: sample these where `samples` and `videos` give nothing; `sampling` are settings of it.
        reward: source of a reward whose score is shown beside the measures (see `train_policy`), or several by name; one
            alone is called "reward".
        curves: files metrics.jsonl by name; None takes those of the policies.
        settings: an EvaluateConfig, or dotted keys such as {"finding.finder": "facenet"}.
        share: sample and look at the videos together with other processes that make the same call on this store.
    """
    # transformers imports DeepSpeed where it is installed, which otherwise announces its guess on stdout.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if Path("/dev/nvidiactl").exists() else "cpu")
    from idgrpo.evaluate.config import EvaluateConfig
    from idgrpo.people.load import files_of

    store = store or Store.default()
    settled = settle(EvaluateConfig, settings)
    variants = collect(store, samples or {}, videos or {}, cases, Sampling(base, policies, sampling, plan_only, share))
    rows = curves_of(store, curves or {}, variants)
    rewards = _find_rewards(store, reward)
    settled = _with_defaults(settled, variants, next((one.source for one in rewards if one.name == REWARD), None))
    if gates is not None:
        gates.check_names(settled, [one.name for one in rewards])
    config = settled.model_dump(mode="json")
    for key in ("device", "batch_size"):
        config["finding"].pop(key)
    if files := files_of(settled.finding.options):
        config["finder_files"] = files
    config["curves"] = hashlib.sha256(canonical(rows).encode()).hexdigest()
    for one in rewards:  # the model decides the result, not the address it is served at
        if one.name == REWARD and one.kind == "service":
            config["served_rm"] = one.pin
        elif one.source is None or one.name != REWARD:
            config.setdefault("rewards", {})[one.name] = {"kind": one.kind, "pin": one.pin}
    inputs = {f"samples.{v.name}": v.source for v in variants if v.source is not None}
    inputs |= {"rm" if one.name == REWARD else f"reward.{one.name}": one.source for one in rewards if one.source}
    inputs |= {"cases": find(store, "cases", cases)} if videos else {}  # whose people the videos are to show
    name = name or "eval"

    def make(run: Run) -> None:
        device = run.device(settled.finding.device)
        _make(run, store, settled, variants, rows, [_reward_scorer(one, device) for one in rewards], inputs)

    return Work(
        store, "eval", "report", name, inputs, config, make, lambda: _plan(store, name, variants, config), force=force,
        ranks="deal", share=share,
    )  # fmt: skip


def _with_defaults(settings: "EvaluateConfig", variants: Sequence[Variant], model: Source | None) -> "EvaluateConfig":
    """Fill in finder and scorers by what the videos are, and how gaps of the reward become win rates."""
    finder = settings.finding.finder or default_finder(variants)
    scorers = default_scorers(variants) if settings.scorers is None else settings.scorers
    changes: dict[str, Any] = {"scorers": scorers, "finding": settings.finding.model_copy(update={"finder": finder})}
    if model is not None and settings.pair_law is None:
        changes["pair_law"] = _law_of(model.path)
    return settings.model_copy(update=changes)


def _law_of(folder: Path) -> "PairLaw":
    """Read from a reward model's card how its gaps become win rates; imported models were trained by the default."""
    from idgrpo.evaluate.config import PairLaw
    from idgrpo.reward.model import load_card

    loss = load_card(folder).get("config", {}).get("loss")
    return PairLaw(loss=loss["name"], theta=loss["theta"], nu=loss["nu"]) if loss else PairLaw()


def _make(
    run: Run,
    store: Store,
    settings: "EvaluateConfig",
    variants: Sequence[Variant],
    rows: dict[str, list[dict[str, Any]]],
    rewards: "list[ClipScorer]",
    inputs: Mapping[str, Source],
) -> None:
    from idgrpo.evaluate.evaluate import evaluate as measure
    from idgrpo.evaluate.evaluate import look_ahead
    from idgrpo.evaluate.report import write_report
    from idgrpo.evaluate.scorer import load_scorer
    from idgrpo.people.kept import load_kept_finder

    finding = settings.finding
    assert finding.finder is not None  # `_with_defaults` filled it in
    where = {"device": run.device(finding.device)} if finding.device != "cpu" else {}
    finder = load_kept_finder(store.root / "cache" / "people", finding.finder, **where | finding.options)
    scorers = [load_scorer(scorer) for scorer in settings.scorers or []] + rewards
    samples, kept = {v.name: v.samples for v in variants}, store.root / "cache" / "observations"
    look_ahead(samples, finder, settings, kept, run.dealing, scorers=scorers)
    if not run.publishes:
        return
    report = measure(
        samples, finder, settings, finder_name=finding.finder, scorers=scorers, cache_folder=kept, curves=rows
    )
    made_by = provenance(store, inputs, to_toml(settings))
    write_report(report, run.out.path, settings.page, made_by)
    run.out.timed.add("report.html")  # it shows the command, which says where and in how many processes
    run.out.metrics.update({v: {n: f.value for n, f in means.items()} for v, means in report.means.items()})


def _find_rewards(store: Store, given: Given | Mapping[str, Given]) -> list[RewardSource]:
    """Find the rewards of a report; UsageError for a measure, which every report has, and for a name that is taken."""
    from idgrpo.evaluate.measure import known_measures

    named: dict[str, Given] = dict(given) if isinstance(given, Mapping) else {} if given is None else {REWARD: given}
    rewards = find_rewards(store, named)
    for one in rewards:
        if one.kind == "measure" and one.text not in known_measures():
            raise UsageError(
                f"--reward {one.name}: {one.text} is a measure, which the report shows as such",
                fix=f"""--set 'measures=["identity", "{one.text}"]'""",
            )
        if one.kind == "measure" or one.name in known_measures():
            raise UsageError(
                f"--reward {one.name}: every report has the measure {one.text if one.kind == 'measure' else one.name}",
                fix="leave it out" if one.kind == "measure" else "call the reward otherwise: NAME=SOURCE",
            )
    return rewards


def _reward_scorer(reward: RewardSource, device: str) -> "ClipScorer":
    """Wrap a reward as a measure on pixels."""
    from idgrpo.evaluate.scorer import reward_scorer
    from idgrpo.video.read import read_image

    def photo(path: str) -> Any:
        return read_image(Path(path))

    shown = f"served {reward.pin[:12]}" if reward.kind == "service" else reward.text
    if reward.source is not None and reward.source.artifact is None:
        shown = reward.source.path.name
    return reward_scorer(shown, reward.pin, reward.load(device).score, photo, measure=reward.name)


def _plan(store: Store, name: str, variants: Sequence[Variant], config: dict[str, Any]) -> Plan:
    lines = [f"{v.name}: {len(v.samples)} videos, {v.origin}" for v in variants]
    document = {"dry_run": True, "variants": {v.name: len(v.samples) for v in variants}, "name": name, "config": config}
    return Plan([*lines, f"would write report/{name} in {store.root}"], document)


@dataclass(frozen=True)
class Gates:
    """What a report is held to: least and largest values of measures, and an earlier report that must not be undercut."""

    minima: dict[str, float]
    maxima: dict[str, float]
    earlier: "Report | None" = None

    @classmethod
    def parse(cls, store: Store, minima: Sequence[str], maxima: Sequence[str], compare: Given = None) -> "Gates":
        """Read the texts `measure=value` and the earlier report, before any work is done."""
        from idgrpo.evaluate.document import read_report
        from idgrpo.evaluate.gates import parse_bounds

        earlier = None
        if compare is not None:
            is_file = isinstance(compare, str | Path) and Path(compare).is_file()
            earlier = read_report(Path(str(compare)) if is_file else find(store, "report", compare).path)
        return cls(parse_bounds(list(minima), "--min"), parse_bounds(list(maxima), "--max"), earlier)

    def check_names(self, settings: "EvaluateConfig", rewards: Sequence[str]) -> None:
        """Refuse a gate on a measure that will not be there, before hours are spent on the videos."""
        from idgrpo.evaluate.measure import known_measures

        known = set(settings.measures or known_measures()) | {n.rpartition(":")[2] for n in settings.scorers or []}
        known |= set(rewards)
        for name in (*self.minima, *self.maxima):
            if name not in known:
                raise UsageError(f"no measure {name!r} to hold a gate against (known: {', '.join(sorted(known))})")

    def check(self, artifact: Artifact) -> list[GateResult]:
        """Hold a report to them."""
        from idgrpo.evaluate.document import read_report
        from idgrpo.evaluate.gates import check_bounds, check_regression

        report = read_report(artifact.path)
        results = check_bounds(report, self.minima, self.maxima)
        return results + (check_regression(report, self.earlier) if self.earlier is not None else [])


def write_junit(gates: Sequence[GateResult], file: Path) -> None:
    """Write gates as JUnit XML. UsageError when the file cannot be written."""
    from idgrpo.evaluate.gates import junit

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(junit(list(gates)), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--junit {file} cannot be written: {error.strerror}", fix="name a file in a folder of yours"
        ) from None


def result(artifact: Artifact, gates: Sequence[GateResult] = ()) -> Plan:
    """Tell the comparison, the alarms and the gates, and where the page lies."""
    from idgrpo.evaluate.document import read_report
    from idgrpo.evaluate.tables import summary_lines

    report = read_report(artifact.path)
    page, sheet = artifact.path / "report.html", artifact.path / "contact_sheet.png"
    alarms = [f"  {v.level}: {v.name}: {v.text}" for v in report.diagnostics if v.level in ("alarm", "watch")]
    summary = [
        *summary_lines(report),
        *alarms,
        *(f"{'met' if g.passed else 'NOT met'}: {g.text}" for g in gates),
        f"report: {page}",
        f"contact sheet: {sheet}",
        f"artifact: {artifact.ref}",
    ]
    shown = {"headline", "headlines", "finder", "num_cases", "means", "comparisons", "diagnostics", "power_note"}
    document = {
        "artifact": artifact.ref,
        "digest": artifact.digest,
        "path": str(artifact.path),
        "report": str(page),
        "contact_sheet": str(sheet),
        **report.model_dump(mode="json", include=shown),
        "gates": [vars(g) for g in gates],
        "exit_code": 0 if all(g.passed for g in gates) else 1,
    }
    return Plan(summary, document)

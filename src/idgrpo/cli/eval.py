"""`idgrpo eval`: videos of a base and of tuned policies -> a report with intervals, verdicts, players; gates for CI."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    scoring_service,
)

if TYPE_CHECKING:
    from idgrpo.cli.eval_inputs import Variant
    from idgrpo.evaluate.config import EvaluateConfig, PairLaw
    from idgrpo.evaluate.document import Report
    from idgrpo.evaluate.gates import GateResult
    from idgrpo.evaluate.scorer import Scorer
    from idgrpo.reward.client import RewardClient
    from idgrpo.store.artifact import Artifact
    from idgrpo.store.store import Store

SamplesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--samples",
        help="Finished samples as name=REF (artifact or samples.jsonl); repeat. The one called base is compared with.",
    ),
]
VideosOption = Annotated[
    list[str] | None,
    typer.Option(
        "--videos",
        help="Finished videos of any tool as name=FOLDER, files <case>.mp4 or <case>--s<seed>.mp4; needs --cases.",
    ),
]
CasesOption = Annotated[str | None, typer.Option(help="Cases: artifact or file (.jsonl, .csv).")]
BaseOption = Annotated[str | None, typer.Option(help="Base to sample with where --samples and --videos give nothing.")]
PolicyOption = Annotated[list[str] | None, typer.Option("--policy", help="Policy to sample with and compare; repeat.")]
NumOption = Annotated[
    int | None, typer.Option("--num-per-case", min=1, help="Clips per case when sampling, with rising seeds.")
]
SampleSetOption = Annotated[
    list[str] | None, typer.Option("--sample-set", help="Setting of the sampling, such as sampler.num_steps=8; repeat.")
]
RewardOption = Annotated[
    str | None,
    typer.Option(
        "--reward",
        help="Reward model whose score is shown beside the measures: artifact, folder or service (http://..).",
    ),
]
FinderOption = Annotated[
    str | None,
    typer.Option(help="tiny, facenet, or package.module:Class. Default: tiny for clips up to 64 px, else facenet."),
]
ScorerOption = Annotated[
    list[str] | None, typer.Option("--scorer", help="Further measure on pixels: name or package.module:function.")
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1.")]
CurvesOption = Annotated[
    list[str] | None, typer.Option("--curves", help="Curves of a run as name=metrics.jsonl; repeat.")
]
MinOption = Annotated[list[str] | None, typer.Option("--min", help="Gate: measure=value that must be reached; repeat.")]
MaxOption = Annotated[
    list[str] | None, typer.Option("--max", help="Gate: measure=value that must not be exceeded; repeat.")
]
CompareOption = Annotated[
    str | None, typer.Option("--compare", help="Earlier report (artifact or file): fail when a measure got worse.")
]
JunitOption = Annotated[Path | None, typer.Option("--junit", help="Write the gates as JUnit XML to this file.")]


def command(
    samples: SamplesOption = None,
    videos: VideosOption = None,
    cases: CasesOption = None,
    base: BaseOption = None,
    policy: PolicyOption = None,
    num_per_case: NumOption = None,
    sample_sets: SampleSetOption = None,
    reward: RewardOption = None,
    finder: FinderOption = None,
    scorer: ScorerOption = None,
    device: DeviceOption = None,
    curves: CurvesOption = None,
    minima: MinOption = None,
    maxima: MaxOption = None,
    compare: CompareOption = None,
    junit: JunitOption = None,
    store: StoreOption = None,
    name: NameOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> int:
    """Measure who is who in videos, compare tuned policies with the base, and write the report.

    The exit code is 1 when a gate (--min, --max, --compare) is not met; the report is written all the same.
    """
    # transformers imports DeepSpeed where it is installed, which otherwise announces its guess on stdout.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if Path("/dev/nvidiactl").exists() else "cpu")
    from idgrpo.cli.eval_inputs import collect, curves_of
    from idgrpo.cli.eval_sampling import SamplingRequest
    from idgrpo.cli.output import finish
    from idgrpo.evaluate.gates import parse_bounds
    from idgrpo.store.store import Store

    bounds = parse_bounds(minima or [], "--min"), parse_bounds(maxima or [], "--max")
    settings = _settings(config, sets, finder, scorer, device)
    shelf = Store(Path(store)) if store else Store.default()
    earlier = _earlier(shelf, compare)
    request = SamplingRequest(
        cases, base, tuple(policy or ()), num_per_case, seed, device, tuple(sample_sets or ()), dry_run
    )
    variants = collect(shelf, samples or [], videos or [], request)
    name = name or "eval"
    rows = curves_of(shelf, curves or [], variants)
    service = scoring_service(reward)
    settings, resolved, inputs = _resolve(settings, shelf, variants, None if service else reward, rows)
    if service is not None:  # the model decides the result, not the address it is served at
        resolved["served_rm"] = service.health()["model"]
    _check_names(bounds, settings, has_reward=reward is not None)
    if dry_run:
        lines = [f"{v.name}: {len(v.samples)} videos, {v.origin}" for v in variants]
        plan = {
            "dry_run": True,
            "variants": {v.name: len(v.samples) for v in variants},
            "name": name,
            "config": resolved,
        }
        finish(
            summary=[*lines, f"would write report/{name} in {shelf.root}"],
            document=plan,
            artifact=None,
            quiet=quiet,
            as_json=as_json,
        )
        return 0
    artifact = None if force else shelf.find("report", name, inputs=inputs, config=resolved)
    if artifact is None:
        artifact = _evaluate(shelf, name, inputs, resolved, settings, variants, rows, service)
    report, gates = _gates(artifact, bounds, earlier, junit)
    failed = [gate for gate in gates if not gate.passed]
    finish(**_result(artifact, report, gates), artifact=artifact, quiet=quiet, as_json=as_json)
    for gate in failed:
        typer.echo(f"gate not met: {gate.text}", err=True)
    return 1 if failed else 0


def _settings(
    config: Path | None, sets: list[str] | None, finder: str | None, scorers: list[str] | None, device: str | None
) -> "EvaluateConfig":
    import json

    from idgrpo.evaluate.config import EvaluateConfig
    from idgrpo.run.config import load_config

    given = {"finding.finder": finder, "scorers": scorers, "finding.device": device}
    options = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    return load_config(EvaluateConfig, config, [*(sets or []), *options])


def _earlier(shelf: "Store", compare: str | None) -> "Report | None":
    """Read the report to compare with before any work is done."""
    from idgrpo.evaluate.document import read_report

    if compare is None:
        return None
    path = Path(compare)
    return read_report(path if path.is_file() else shelf.resolve(compare, kind="report").path)


def _resolve(
    settings: "EvaluateConfig", shelf: "Store", variants: list["Variant"], reward: str | None, rows: dict[str, list]
) -> tuple["EvaluateConfig", dict[str, Any], dict[str, Any]]:
    """Fill in finder and scorers; give what decides the result (settings and inputs)."""
    import hashlib
    import json

    from idgrpo.cli.eval_inputs import default_finder, default_scorers

    finder = settings.finding.finder or default_finder(variants)
    scorers = default_scorers(variants) if settings.scorers is None else settings.scorers
    settings = settings.model_copy(
        update={"scorers": scorers, "finding": settings.finding.model_copy(update={"finder": finder})}
    )
    source = None if reward is None else _reward_source(shelf, reward)
    if source is not None and settings.pair_law is None:
        settings = settings.model_copy(update={"pair_law": _law_of(source)})
    resolved = settings.model_dump(mode="json")
    for key in ("device", "batch_size"):
        resolved["finding"].pop(key)
    listing = {v.name: [s.model_dump(mode="json") for s in v.samples] for v in variants}
    resolved["samples"] = hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()
    resolved["curves"] = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    inputs = {f"samples.{v.name}": v.source for v in variants if v.source is not None}
    if source is not None:
        inputs["rm"] = source
    return settings, resolved, inputs


def _reward_source(shelf: "Store", reward: str) -> "Artifact | Path":
    folder = Path(reward)
    is_folder = folder.is_dir() and not (folder / "manifest.json").is_file()
    return folder.resolve() if is_folder else shelf.resolve(reward, kind="rm")


def _law_of(source: "Artifact | Path") -> "PairLaw":
    """Read from a reward model's card how its gaps become win rates; imported models were trained by the default."""
    from idgrpo.evaluate.config import PairLaw
    from idgrpo.reward.model import load_card

    loss = load_card(source if isinstance(source, Path) else source.path).get("config", {}).get("loss")
    return PairLaw(loss=loss["name"], theta=loss["theta"], nu=loss["nu"]) if loss else PairLaw()


def _check_names(
    bounds: tuple[dict[str, float], dict[str, float]], settings: "EvaluateConfig", *, has_reward: bool
) -> None:
    """Refuse a gate on a measure that will not be there, before hours are spent on the videos."""
    from idgrpo.errors import UsageError
    from idgrpo.evaluate.measure import known_measures

    known = set(settings.measures or known_measures()) | {name.rpartition(":")[2] for name in settings.scorers or []}
    known |= {"reward"} if has_reward else set()
    for name in (name for part in bounds for name in part):
        if name not in known:
            raise UsageError(f"no measure {name!r} to hold a gate against (known: {', '.join(sorted(known))})")


def _evaluate(
    shelf: "Store",
    name: str,
    inputs: dict[str, Any],
    resolved: dict[str, Any],
    settings: "EvaluateConfig",
    variants: list["Variant"],
    rows: dict[str, list[dict[str, Any]]],
    service: "RewardClient | None",
) -> "Artifact":
    from idgrpo.evaluate.evaluate import evaluate
    from idgrpo.evaluate.report import write_report
    from idgrpo.evaluate.scorer import load_scorer
    from idgrpo.people.load import load_finder

    finding = settings.finding
    assert finding.finder is not None  # `_resolved` filled it in
    options = {"device": finding.device} if finding.device != "cpu" else {}
    finder = load_finder(finding.finder, **options)
    scorers = [load_scorer(scorer) for scorer in settings.scorers or []]
    if "rm" in inputs:
        scorers.append(_reward_scorer(inputs["rm"], finding.device))
    if service is not None:
        scorers.append(_served_scorer(service, resolved["served_rm"]))
    report = evaluate(
        {v.name: v.samples for v in variants},
        finder,
        settings,
        finder_name=finding.finder,
        scorers=scorers,
        cache_folder=shelf.root / "cache" / "observations",
        curves=rows,
    )
    with shelf.publish("report", name, inputs=inputs, config=resolved) as draft:
        write_report(report, draft.path, settings.page)
        draft.metrics.update({v: {n: f.value for n, f in means.items()} for v, means in report.means.items()})
    return draft.artifact


def _reward_scorer(source: "Artifact | Path", device: str) -> "Scorer":
    from idgrpo.evaluate.scorer import reward_scorer
    from idgrpo.reward.score import RewardModel
    from idgrpo.store.manifest import content_digest, scan
    from idgrpo.video.read import read_image

    folder, key, name = (
        (source, content_digest(scan(source)), source.name)
        if isinstance(source, Path)
        else (source.path, source.digest, source.ref)
    )
    model = RewardModel.load(folder, device=device)
    return reward_scorer(name, key, model.score, lambda path: read_image(Path(path)))


def _served_scorer(service: "RewardClient", digest: str) -> "Scorer":
    from idgrpo.evaluate.scorer import reward_scorer
    from idgrpo.video.read import read_image

    return reward_scorer(f"served {digest[:12]}", digest, service.score, lambda path: read_image(Path(path)))


def _gates(
    artifact: "Artifact",
    bounds: tuple[dict[str, float], dict[str, float]],
    earlier: "Report | None",
    junit: Path | None,
) -> tuple["Report", list["GateResult"]]:
    from idgrpo.evaluate.document import read_report
    from idgrpo.evaluate.gates import check_bounds, check_regression
    from idgrpo.evaluate.gates import junit as junit_text

    report = read_report(artifact.path)
    gates = check_bounds(report, *bounds)
    if earlier is not None:
        gates += check_regression(report, earlier)
    if junit is not None:
        junit.parent.mkdir(parents=True, exist_ok=True)
        junit.write_text(junit_text(gates), encoding="utf-8")
    return report, gates


def _result(artifact: "Artifact", report: "Report", gates: list["GateResult"]) -> dict[str, Any]:
    from idgrpo.evaluate.tables import summary_lines

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
    document = {
        "artifact": artifact.ref,
        "digest": artifact.digest,
        "path": str(artifact.path),
        "report": str(page),
        "contact_sheet": str(sheet),
        **report.model_dump(
            mode="json",
            include={"headline", "finder", "num_cases", "means", "comparisons", "diagnostics", "power_note"},
        ),
        "gates": [vars(g) for g in gates],
        "exit_code": 0 if all(g.passed for g in gates) else 1,
    }
    return {"summary": summary, "document": document}

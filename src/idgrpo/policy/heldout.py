"""Held-out evaluation during training: the same cases and seeds each time, measured by the evaluation room."""

from collections.abc import Callable, Sequence
from pathlib import Path

from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.contract import Base
from idgrpo.bases.generate import jobs_of
from idgrpo.bases.sampling import sample_to_folder
from idgrpo.errors import DataError
from idgrpo.evaluate.config import EvaluateConfig
from idgrpo.evaluate.evaluate import evaluate
from idgrpo.people.contract import Finder
from idgrpo.records.case import Case


def held_out(
    cases: Sequence[Case], training: Sequence[Case], finder: Finder, folder: Path, *, finder_name: str, seed: int = 0
) -> Callable[[Base, int], dict[str, float]]:
    """Give the hook for `train`: sample every held-out case deterministically with one seed and measure it.

    Videos stay in folder/update-000020/ for people to look at. Raises DataError when a case is also trained on.
    """
    shared = {case.id for case in cases} & {case.id for case in training}
    if shared:
        raise DataError(
            f"{len(shared)} held-out cases are trained on as well, e.g. {', '.join(sorted(shared)[:3])}",
            fix="give other cases, of other people, to --eval-cases",
        )

    def measure(base: Base, update: int) -> dict[str, float]:
        jobs = jobs_of(list(cases), seed=seed, num_per_case=1)
        samples = sample_to_folder(base, jobs, folder / f"update-{update:06d}", sampler=SamplerConfig(batch_size=16))
        report = evaluate({"now": samples}, finder, EvaluateConfig(), finder_name=finder_name)
        return {name: figure.value for name, figure in report.means["now"].items()}

    return measure

"""What a policy says about how it was trained (`policy.json`), against how it is sampled. Imports no torch."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from idgrpo.bases.config import ResolvedSampler, SamplerConfig
from idgrpo.bases.contract import QUANTISED, BaseEntry, BaseWeights, GuidanceMode
from idgrpo.errors import ArtifactError

FILE = "policy.json"
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class TrainedSize(_Part):
    """Size of the training clips."""

    width: int = Field(ge=1)
    height: int = Field(ge=1)
    frames: int = Field(ge=1)


class TrainedGuidance(_Part):
    """Guidance of rollout and replay; a scale of None is the base's own."""

    mode: GuidanceMode = "none"
    scale: Number | None = None
    image_scale: Number | None = None


class TrainedSchedule(_Part):
    """Noise schedule of the rollout: num_steps + 1 sigmas."""

    shift: float = Field(gt=0, allow_inf_nan=False)
    sigmas: list[Number] = Field(min_length=2)
    guidance: TrainedGuidance = TrainedGuidance()


class TrainedEngine(_Part):
    """How the transformer was kept in memory; None is bf16 on a GPU and float32 on a CPU."""

    base_weights: BaseWeights | None = None


class TrainedSettings(_Part):
    """What of all settings of the training decides how a base is loaded."""

    engine: TrainedEngine = TrainedEngine()


class PolicyCard(_Part):
    """What of `policy.json` other stages need; the file may hold more, a hand-made one less."""

    base: str | None = None
    size: TrainedSize | None = None
    schedule: TrainedSchedule | None = None
    reversed_references: bool = False
    config: TrainedSettings = TrainedSettings()

    @property
    def quantised(self) -> BaseWeights | None:
        """Give the kind of quantised weights that the policy was trained on, None where they were not quantised."""
        kind = self.config.engine.base_weights
        return kind if kind in QUANTISED else None


def read_policy_card(policy: Path) -> PolicyCard | None:
    """Read `policy.json` of a policy's folder, None when there is none. Raises ArtifactError that names file and field."""
    path = policy / FILE
    if not path.is_file():
        return None
    fix = "train the policy again, or correct the file; without it, name the base by --base"
    try:
        # A byte-order mark says nothing here: editors of some systems write one.
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ArtifactError(f"{path} cannot be read: {reason}", fix=fix) from error
    if not isinstance(values, dict):
        raise ArtifactError(f"{path}: a table is expected, not a {type(values).__name__}", fix=fix)
    try:
        return PolicyCard.model_validate(values)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, detail['loc']))}: {detail['msg']} (got {repr(detail['input'])[:80]})"
            for detail in error.errors()
        ]
        raise ArtifactError(f"{path}: {'; '.join(lines[:4])}", fix=fix) from None


def as_trained(card: PolicyCard) -> dict[str, Any]:
    """Give the settings of the sampler under which a policy was trained, for `SamplerConfig`; None clears one."""
    settings: dict[str, Any] = {"reversed_references": card.reversed_references}
    if card.size is not None:
        settings |= card.size.model_dump()
    if card.schedule is not None:
        guidance = card.schedule.guidance
        settings |= {"num_steps": len(card.schedule.sigmas) - 1, "shift": card.schedule.shift}
        settings |= {"guidance_mode": guidance.mode, "guidance": guidance.scale, "image_guidance": guidance.image_scale}
    return settings


def trained_otherwise(card: PolicyCard, sampler: SamplerConfig, entry: BaseEntry) -> str | None:
    """Say in one sentence how sampling differs from training (size, steps, shift, guidance, order), None when it does not."""
    trained = SamplerConfig.model_validate(sampler.model_dump() | as_trained(card)).resolved(entry)
    then, now = _facts(trained), _facts(sampler.resolved(entry))
    differing = [place for place in range(len(now)) if then[place] != now[place]]
    if not differing:
        return None
    return (
        f"the policy was trained with {', '.join(then[k] for k in differing)}; these clips have "
        f"{', '.join(now[k] for k in differing)} (--as-trained takes the settings of training)"
    )


def _facts(sampler: ResolvedSampler) -> list[str]:
    """Describe the settings that training and sampling share."""
    if sampler.guidance_mode == "none":
        guidance = "no guidance"
    else:
        guidance = f"guidance {sampler.guidance:g}"
        guidance += "" if sampler.image_guidance is None else f" (references {sampler.image_guidance:g})"
    order = "references in reversed order" if sampler.reversed_references else "references in the case's order"
    size = f"{sampler.width}x{sampler.height}x{sampler.frames}"
    return [f"size {size}", f"{sampler.num_steps} steps", f"shift {sampler.shift:g}", guidance, order]

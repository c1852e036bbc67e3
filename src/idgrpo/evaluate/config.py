"""Settings of an evaluation; pydantic only."""

from typing import Literal

from pydantic import Field

from idgrpo.run.config import Config


class FindingConfig(Config):
    """How people are found and followed.

    `appearance` is kept low on purpose: a tracker that follows faces by their look would follow two people who swap
    identities half-way and call it perfect. Position leads, looks only break ties where people overlap.
    """

    finder: str | None = None  # None: "tiny" for clips of at most 64 pixels, else "facenet"
    options: dict[str, bool | int | float | str | list[float]] = Field(
        default_factory=dict
    )  # the finder's own settings
    device: str = "cpu"
    appearance: float = Field(0.08, ge=0)
    min_score: float = Field(0.0, ge=0, le=1)
    min_track_share: float = Field(0.1, ge=0, le=1)
    batch_size: int = Field(16, ge=1)


class StatisticsConfig(Config):
    """Intervals and tests. `num_wrong` other cases give the wrong references of the control."""

    level: float = Field(0.95, gt=0.5, lt=1)
    num_resamples: int = Field(4000, ge=200)
    seed: int = 0
    num_wrong: int = Field(4, ge=1)
    tie_width: float = Field(1e-9, ge=0)


class PageConfig(Config):
    """The page people look at. `max_bytes` bounds it: cases whose players do not fit are listed with numbers only."""

    title: str = "Identity report"
    subtitle: str = ""
    max_bytes: int = Field(16_000_000, ge=200_000)
    max_players: int = Field(40, ge=0)
    player_width_px: int = Field(224, ge=64)
    sheet_cases: int = Field(6, ge=1)
    sheet_frames: int = Field(4, ge=1)


class PairLaw(Config):
    """How a reward gap is read as a win rate: the loss the reward model was trained with and its numbers."""

    loss: Literal["rao_kupper", "davidson", "bradley_terry", "margin"] = "rao_kupper"
    theta: float = Field(5.0, gt=1)
    nu: float = Field(1.0, gt=0)


class EvaluateConfig(Config):
    """All settings of `idgrpo eval`."""

    measures: list[str] | None = None
    scorers: list[str] | None = None  # None: the oracle beside the finder on the embedded world, nothing elsewhere
    finding: FindingConfig = FindingConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    page: PageConfig = PageConfig()
    headline: str = "identity"
    companion: str | None = "separation"  # read together with the headline: a gain is claimed when both rise
    pair_law: PairLaw | None = None  # None: that of the reward model
    slices: tuple[Literal["people", "face_size", "occlusion"], ...] = ("people", "face_size", "occlusion")

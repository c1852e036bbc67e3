"""Settings of an evaluation; pydantic only."""

from typing import Literal

from pydantic import Field

from idgrpo.run.config import Config


class FindingConfig(Config):
    """How people are found and followed.

    `appearance` is kept low on purpose: a tracker that follows faces by their look would follow two people who swap
    identities half-way and call it perfect. Position leads, looks only break ties where people overlap.
    """

    finder: str | None = Field(
        default=None, description="who finds people; None: tiny for clips of at most 64 px, else facenet"
    )
    options: dict[str, bool | int | float | str | list[float]] = Field(
        default_factory=dict, description="the finder's own settings, by name"
    )
    device: str = Field(default="cpu", description="where the finder works: cpu, cuda, cuda:1")
    appearance: float = Field(0.08, ge=0, description="weight of looks against position when people are followed")
    min_score: float = Field(0.0, ge=0, le=1, description="detections with a lower score are left out")
    min_track_share: float = Field(
        0.1, ge=0, le=1, description="tracks shorter than this share of the frames are left out"
    )
    batch_size: int = Field(16, ge=1, description="frames searched together")


class StatisticsConfig(Config):
    """Intervals and tests. `num_wrong` other cases give the wrong references of the control."""

    level: float = Field(0.95, gt=0.5, lt=1, description="confidence level of the intervals")
    num_resamples: int = Field(4000, ge=200, description="bootstrap resamples of an interval")
    seed: int = Field(default=0, description="seed of the bootstrap")
    num_wrong: int = Field(4, ge=1, description="other cases whose people serve as wrong references")
    tie_width: float = Field(1e-9, ge=0, description="differences up to this count as a tie in the win rate")


class PageConfig(Config):
    """The page people look at. `max_bytes` bounds it: cases whose players do not fit are listed with numbers only."""

    title: str = Field(default="Identity report", description="heading of the report")
    subtitle: str = Field(default="", description="line below the heading")
    max_bytes: int = Field(
        16_000_000,
        ge=200_000,
        description="largest report.html, in bytes; cases that do not fit are listed with numbers only",
    )
    max_players: int = Field(40, ge=0, description="cases with players, at most")
    player_width_px: int = Field(224, ge=64, description="width of a player, in pixels")
    sheet_cases: int = Field(6, ge=1, description="cases of the contact sheet")
    sheet_frames: int = Field(4, ge=1, description="frames of each clip on the contact sheet")


class PairLaw(Config):
    """How a reward gap is read as a win rate: the loss the reward model was trained with and its numbers."""

    loss: Literal["rao_kupper", "davidson", "bradley_terry", "margin"] = Field(
        default="rao_kupper", description="loss that the reward model was trained with"
    )
    theta: float = Field(5.0, gt=1, description="of rao_kupper: larger means more ties")
    nu: float = Field(1.0, gt=0, description="of davidson: weight of a tie")


class EvaluateConfig(Config):
    """All settings of `idgrpo eval`."""

    measures: list[str] | None = Field(
        default=None, description="measures by name or package.module:function; None: all"
    )
    scorers: list[str] | None = Field(
        default=None,
        description="further measures on pixels; None: the oracle on the embedded world, nothing elsewhere",
    )
    finding: FindingConfig = FindingConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    page: PageConfig = PageConfig()
    headline: str = Field(default="identity", description="measure of the verdict")
    companion: str | None = Field(
        default="separation",
        description="measure read together with the headline: a gain is claimed when both rise; None: the headline alone",
    )
    pair_law: PairLaw | None = Field(
        default=None,
        description="how a reward gap is read as a win rate; None: the loss the reward model was trained with",
    )
    slices: tuple[Literal["people", "face_size", "occlusion"], ...] = Field(
        default=("people", "face_size", "occlusion"), description="groups of cases that are reported apart"
    )

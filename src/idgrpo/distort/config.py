"""Settings of `idgrpo distort`."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from idgrpo.distort.registry import known
from idgrpo.errors import UsageError
from idgrpo.run.config import Config

if TYPE_CHECKING:
    from idgrpo.people.contract import Levels

Share = float


class StrengthConfig(Config):
    """Say how strong distortions are.

    Strengths are uniform in `low`..`high`; a share `tie_share` is drawn below `tie_below` and labelled as ties, because a
    difference nobody sees must not be learnt as an order. For the same reason a pair with an order is not made where the two
    sides of an identity distortion differ by less than `visible` (a share of one person's picture, `pair.visible_change`).
    `curriculum` moves the range along the file: `easy-first` begins with the strongest, `hard-first` with the weakest.
    """

    low: float = Field(0.3, ge=0, le=1, description="weakest strength that is labelled with an order")
    high: float = Field(1.0, ge=0, le=1, description="strongest strength")
    tie_below: float = Field(0.1, ge=0, le=1, description="strengths of ties are drawn below this")
    tie_share: Share = Field(0.06, ge=0, le=1, description="share of pairs that are drawn as ties")
    visible: Share = Field(
        0.05,
        ge=0,
        le=1,
        description="pairs whose two sides differ by less than this share of one person's picture are not made",
    )
    curriculum: Literal["none", "easy-first", "hard-first"] = Field(
        default="none", description="order of strengths along the file: none, strongest first, or weakest first"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "StrengthConfig":
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        if self.tie_share > 0 and self.tie_below > self.low:
            raise ValueError(
                f"tie_below ({self.tie_below}) is above low ({self.low}): one strength would have two labels"
            )
        return self


class BalanceConfig(Config):
    """Say in which shares of the pairs other things than identity are balanced, so that they cannot be learnt.

    `both_sides`: the same kind of artefact on both; `better_side`: on the better side only; `graded`: both sides damaged, one
    less; `mirrored`: references of the stranger, so that the damaged clip is the right one; `unsteady_better`: of distortions
    within the clip (a swap half-way), this share is the better side, against a stranger in every frame.
    """

    both_sides: Share = Field(0.15, ge=0, le=1, description="share of pairs with the same artefact on both sides")
    better_side: Share = Field(0.10, ge=0, le=1, description="share of pairs with an artefact on the better side only")
    graded: Share = Field(0.15, ge=0, le=1, description="share of pairs in which both sides are damaged and one less")
    mirrored: Share = Field(
        0.5,
        ge=0,
        le=1,
        description="share of pairs that ask for the stranger, so that the damaged clip is the right one",
    )
    unsteady_better: Share = Field(
        0.5,
        ge=0,
        le=1,
        description="share of distortions within the clip that are the better side, against a stranger in every frame",
    )


class PeopleConfig(Config):
    """Say how people are found in clips whose truth is not known.

    `options` are the finder's own settings (`min_face_px`, `same_person`, ...). A clip in which a reference is nobody's to at least
    `min_similarity` (cosine) gives no pair; somebody of another clip who is more alike than `max_likeness` counts as the same person,
    never as a stranger. None takes both from the levels that the finder states (its `stranger` and `same_person`); for a finder that
    states none, -1 and 0.6.
    """

    finder: str = Field(
        default="facenet",
        description="who finds people in clips of unknown content: tiny, facenet, arcface or package.module:Class",
    )
    options: dict[str, bool | int | float | str | list[float]] = Field(
        default_factory=dict, description="settings of the finder itself, such as `min_face_px`"
    )
    min_coverage: Share = Field(0.5, ge=0, le=1, description="share of frames in which each person must be found")
    min_similarity: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="cosine to its reference below which a clip gives no pair; None: the finder's own level",
    )
    max_strangers: int = Field(2000, ge=0, description="people of other clips kept as possible strangers, at most")
    max_likeness: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="cosine above which somebody of another clip counts as the same person; None: the finder's own level",
    )

    def least_similarity(self, levels: "Levels | None") -> float:
        """Give the cosine below which a person of a clip is not the one of the reference."""
        if self.min_similarity is not None:
            return self.min_similarity
        return -1.0 if levels is None else levels.stranger

    def most_likeness(self, levels: "Levels | None") -> float:
        """Give the cosine above which somebody of another clip is the same person."""
        if self.max_likeness is not None:
            return self.max_likeness
        return 0.6 if levels is None else levels.same_person


class DistortConfig(Config):
    """Say how many pairs of which kinds are made from each clip.

    `mix` gives weights by name; empty means the default mix of the registry. Videos are written `lossless` when asked, or
    (auto) when they are smaller than 128 px on a side, where chroma subsampling would eat the people. Clips longer than
    `max_frames` are cut there.
    """

    per_video: int = Field(4, ge=1, description="pairs made from each clip, at most")
    mix: dict[str, float] = Field(
        default_factory=dict, description="weight of each distortion by name; empty: the default mix of the registry"
    )
    strength: StrengthConfig = StrengthConfig()
    balance: BalanceConfig = BalanceConfig()
    people: PeopleConfig = PeopleConfig()
    lossless: Literal["auto", "yes", "no"] = Field(
        default="auto", description="lossless video; auto: only for clips under 128 px on a side"
    )
    max_frames: int = Field(257, ge=2, description="longer clips are cut to this many frames")
    seed: int = Field(default=0, description="seed of all draws: which pairs, strengths and people")

    @field_validator("mix")
    @classmethod
    def _known_names(cls, mix: dict[str, float]) -> dict[str, float]:
        from idgrpo.distort.registry import entry_of

        for name, weight in mix.items():
            try:
                entry_of(name)
            except UsageError as error:
                raise ValueError(error.message) from error
            if not weight >= 0:
                raise ValueError(f"the weight of {name!r} is {weight}: it must be at least 0")
        if mix and not any(mix.values()):
            raise ValueError("all weights are 0")
        return mix

    def weights(self) -> dict[str, float]:
        """Give the weights in force, those above 0."""
        table = self.mix or {name: entry.weight for name, entry in known().items()}
        return {name: weight for name, weight in table.items() if weight > 0}


def parse_mix(text: str) -> dict[str, float]:
    """Read `swap_late=2,replace,blend=0.5` (a name alone weighs 1)."""
    mix: dict[str, float] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, weight = item.partition("=")
        try:
            mix[name.strip()] = float(weight) if weight else 1.0
        except ValueError:
            raise UsageError(f"--mix: {item!r} is not NAME or NAME=WEIGHT") from None
    return mix

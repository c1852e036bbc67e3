"""Settings of the annotate stage: pairs, simulated annotators, aggregation, the page. Imports nothing heavy."""

from typing import Literal

from pydantic import Field, model_validator

from idgrpo.run.config import Config


class PairsConfig(Config):
    """Which samples of one case meet each other."""

    per_case: int | None = Field(None, ge=1, description="pairs kept of each case; None: all")
    across: Literal["any", "base", "policy", "source"] = Field(
        "any", description="clips of a pair must differ in this (`source`: base or policy); `any`: every two clips meet"
    )
    dimension: str = Field(
        default="identity", description="name of the quality that annotators compare; written into every pair"
    )
    seed: int = Field(default=0, description="seed of the draw of pairs and of which clip is `a`")


class AnnotatorConfig(Config):
    """Habits of one simulated annotator; the defaults are a careful person."""

    skill: float = Field(
        0.97, ge=0.5, le=1.0, description="chance that a perceived difference is not reported reversed"
    )
    noise: float = Field(0.02, ge=0.0, description="std of the perceived difference, in units of the gap")
    tie_width: float = Field(0.02, ge=0.0, description="perceived differences up to this are called a tie")
    both_bad_share: float = Field(0.0, ge=0.0, le=1.0, description="share of their ties reported as `both_bad`")
    side_bias: float = Field(
        0.0, ge=-1.0, le=1.0, description="share of answers given to one side unseen: > 0 left, < 0 right"
    )
    laziness: float = Field(0.0, ge=0.0, le=1.0, description="share of answers given within a second, at random")
    skip_rate: float = Field(0.0, ge=0.0, lt=1.0, description="share of pairs skipped")
    seconds: float = Field(9.0, gt=0, description="median time of a considered answer")

    @model_validator(mode="after")
    def _shares_fit(self) -> "AnnotatorConfig":
        total = self.laziness + abs(self.side_bias) + self.skip_rate
        if total > 1:
            raise ValueError(f"laziness + |side_bias| + skip_rate = {total:g} of the answers; at most 1 can be given")
        return self


class OracleConfig(Config):
    """A panel of simulated annotators; `panel` (one entry each) replaces `num_annotators` equal ones."""

    num_annotators: int = Field(3, ge=1, description="simulated annotators, all with the habits of `annotator`")
    annotator: AnnotatorConfig = AnnotatorConfig()
    panel: list[AnnotatorConfig] = []
    overlap: int = Field(3, ge=1, description="votes of different annotators a pair")
    repeat_share: float = Field(0.05, ge=0.0, le=1.0, description="share of pairs shown again with sides swapped")
    seed: int = Field(default=0, description="seed of their answers")

    def annotators(self) -> list[AnnotatorConfig]:
        """Give the habits of each annotator of the panel."""
        return list(self.panel) or [self.annotator] * self.num_annotators

    @model_validator(mode="after")
    def _overlap_fits(self) -> "OracleConfig":
        num = len(self.annotators())
        if self.overlap > num:
            raise ValueError(
                f"overlap {self.overlap} needs as many annotators, the panel has {num}; nearest valid: overlap={num}"
            )
        return self


class JudgeConfig(Config):
    """How models are asked; each round asks in both orders."""

    votes: int = Field(3, ge=1, description="rounds a pair; a judge whose answer cannot vary is asked once")
    temperature: float = Field(0.7, gt=0, description="of sampling, for judges that generate text")
    max_new_tokens: int = Field(256, ge=1, description="length of one answer")
    num_frames: int = Field(8, ge=2, description="frames shown of each clip, spread over all of it")
    max_pixels: int = Field(399_360, ge=784, description="frames and photos with more are made smaller")
    device: str = Field("auto", description="auto: a GPU if there is one")
    finder: str | None = Field(
        None,
        description="embedding filter: votes that this finder's embeddings contradict become abstentions; a measure that judges "
        "finds people with it",
    )
    filter_margin: float = Field(0.05, ge=0, description="difference of mean cosine that counts as a contradiction")
    seed: int = Field(default=0, description="seed of the judges' sampled texts")


class AggregateConfig(Config):
    """How votes become preferences."""

    method: Literal["majority", "annotators"] = Field(
        "annotators", description="`majority`: one vote each; `annotators`: weighted by estimated skill (Dawid-Skene)"
    )
    min_votes: int = Field(1, ge=1, description="pairs with fewer votes (skips do not count) give no preference")
    min_confidence: float = Field(0.0, ge=0.0, le=1.0, description="pairs the model is less sure of give no preference")
    min_alpha: float = Field(
        0.0,
        ge=-1.0,
        le=1.0,
        description="nothing is published when Krippendorff's alpha is at or below this; -1: never",
    )
    min_alpha_pairs: int = Field(20, ge=2, description="pairs with two votes or more that `min_alpha` needs to tell")
    max_rounds: int = Field(200, ge=1, description="rounds of expectation-maximisation")
    smoothing: float = Field(1.0, gt=0, description="pseudo-votes of each cell, shared by the panel's average habits")


class AgreementConfig(Config):
    """Intervals and thresholds of the agreement report; flags are shown, nobody is dropped."""

    level: float = Field(0.95, gt=0.5, lt=1.0, description="confidence level of the intervals")
    num_resamples: int = Field(1000, ge=100, description="bootstrap resamples of an interval")
    seed: int = Field(default=0, description="seed of the bootstrap")
    flag_min_seconds: float = Field(1.5, ge=0, description="flag: median answer faster than this")
    flag_side_bias: float = Field(
        0.08, ge=0, le=0.5, description="flag: interval of the left share outside 0.5 +- this"
    )
    flag_min_gold: float = Field(0.7, ge=0, le=1, description="flag: interval of gold accuracy below this")
    flag_min_skill: float = Field(0.7, ge=0, le=1, description="flag: interval of estimated skill below this")
    flag_min_repeat: float = Field(0.6, ge=0, le=1, description="flag: interval of agreement with oneself below this")


class QueueConfig(Config):
    """How pairs are handed out."""

    overlap: int = Field(3, ge=1, description="votes of different annotators a pair")
    lease_s: float = Field(600.0, gt=0, description="a pair taken and not answered comes back after this")
    block: int = Field(8, ge=2, description="sides balance within each block of this many pairs of an annotator")
    repeat_share: float = Field(0.05, ge=0, le=1, description="share of one's pairs that come back, sides swapped")
    repeat_after: int = Field(12, ge=1, description="answers at least between a pair and its repeat")
    gold_share: float = Field(0.05, ge=0, le=1, description="share of gold pairs mixed in, if there are any")
    seed: int = Field(default=0, description="seed of the order of pairs and of their sides")


class ServeConfig(Config):
    """The page and its server."""

    host: str = Field("127.0.0.1", description="address to listen on; any but loopback needs a link for each annotator")
    port: int = Field(8080, ge=0, le=65535, description="0: any free port")
    names: list[str] = Field([], description="names under which browsers may reach the page, beside `host`")
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^/?#\s]+(/[^?#\s]*)?$",
        description="address of the page behind a proxy, such as https://votes.example.org/faces/; links start with it",
    )
    guidelines: str | None = Field(None, description="Markdown file that annotators can read on the page")
    link_hours: float = Field(168.0, gt=0, description="a link that nobody opened expires after this many hours")
    code_after: int = Field(
        0, ge=0, description="votes after which an annotator is shown a completion code (crowd platforms); 0: no codes"
    )
    max_body_bytes: int = Field(16_384, ge=1024, description="largest request that the page may send, in bytes")
    drain_s: float = Field(5.0, gt=0, description="at Ctrl-C: time for requests under way")
    unlock: Literal["played", "at_once"] = Field(
        "played", description="votes unlock once both clips played, or at once"
    )


class AnnotateConfig(Config):
    """Everything `idgrpo annotate` can be told."""

    pairs: PairsConfig = PairsConfig()
    oracle: OracleConfig = OracleConfig()
    judge: JudgeConfig = JudgeConfig()
    queue: QueueConfig = QueueConfig()
    serve: ServeConfig = ServeConfig()
    aggregate: AggregateConfig = AggregateConfig()
    agreement: AgreementConfig = AgreementConfig()
    ask_people: bool = Field(
        False, description="also ask, optionally, what became of each person in each clip (people and oracle)"
    )

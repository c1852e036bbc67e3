"""Score videos with a trained reward model: from tensors in memory, batched, without a graph."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from idgrpo.errors import DataError, MachineError
from idgrpo.reward.checkpoint import checkpoint_digest
from idgrpo.reward.inputs import InputBuilder, References
from idgrpo.reward.model import RewardNetwork, load_network

NOT_SCORING = (
    "manifest.json",
    "metrics.jsonl",
    "card.png",
    "accuracy.txt",
    "reward.json",
)  # files that change no score


@dataclass(frozen=True)
class RewardFailure:
    """Why a video has no score; a failure is never turned into a number."""

    reason: str


def clip_features(
    network: RewardNetwork,
    builder: InputBuilder,
    videos: Sequence[Tensor] | Tensor,
    references: References,
    prompts: Sequence[str],
    *,
    batch: int = 16,
) -> Tensor:
    """Return float32 features "clip width"; with reference order `average`, the mean over the orders shown."""
    rows: list[tuple[int, list[int]]] = []
    for index, orders in enumerate(builder.expand(references)):
        rows += [(index, order) for order in orders]
    # Rows of one length share a batch, so that most batches need no padding and no attention mask.
    lengths = [builder.text_length(len(order), prompts[index], len(videos[index])) for index, order in rows]
    queue = sorted(range(len(rows)), key=lambda i: lengths[i])
    device = network.head.weight.device
    sums = torch.zeros(len(videos), network.head.weight.shape[1])
    counts = torch.zeros(len(videos), 1)
    with torch.inference_mode():
        for start in range(0, len(queue), batch):
            part = [rows[i] for i in queue[start : start + batch]]
            inputs = builder.build(
                [videos[i] for i, _ in part],
                [[references[i][k] for k in order] for i, order in part],
                [prompts[i] for i, _ in part],
                order="given",
            )
            found = network.features({name: value.to(device) for name, value in inputs.items()}).cpu()
            owners = torch.tensor([i for i, _ in part])
            sums.index_add_(0, owners, found)
            counts.index_add_(0, owners, torch.ones(len(part), 1))
    return sums / counts


class RewardModel:
    """A trained reward model, ready to score; `tie_threshold` and `digest` (what its scores depend on) come with it."""

    def __init__(
        self, network: RewardNetwork, builder: InputBuilder, card: dict, *, batch: int = 16, digest: str | None = None
    ):
        self.network = network
        self.builder = builder
        self.card = card
        self.batch = batch
        self.tie_threshold: float | None = card.get("tie_threshold")
        self.digest = digest or builder.settings.digest()

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.network.head.weight.device

    @classmethod
    def load(cls, path: Path | str, device: str = "cpu", *, batch: int = 16) -> "RewardModel":
        """Load a directory written by `train-rm`; weights in bfloat16 on a GPU, float32 elsewhere, head float32."""
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        network, builder, card = load_network(Path(path), dtype)
        return cls(
            network.to(device), builder, card, batch=batch, digest=checkpoint_digest(Path(path), skip=NOT_SCORING)
        )

    def score(
        self, videos: Sequence[Tensor] | Tensor, references: References, prompts: Sequence[str]
    ) -> list[float | RewardFailure]:
        """Score each clip.

        Args:
            videos: uint8 clips "frame channel height width".
            references: per clip, one photo per person, uint8 "channel height width".
            prompts: one per clip.

        Returns:
            One float per clip, or a RewardFailure that says why that clip has none (wrong shape, no frames, too many
            references, a score that is not finite). The other clips of the call are scored all the same.

        Raises:
            DataError: the three lists differ in length.
            MachineError: out of memory.
        """
        if not len(videos) == len(references) == len(prompts):
            raise DataError(f"{len(videos)} videos, {len(references)} reference sets and {len(prompts)} prompts")
        out: list[float | RewardFailure] = []
        good: list[int] = []
        for index in range(len(videos)):
            problem = self.builder.problem(videos[index], references[index])
            out.append(RewardFailure(problem or "not scored"))
            if problem is None:
                good.append(index)
        if not good:
            return out
        try:
            features = clip_features(
                self.network,
                self.builder,
                [videos[i] for i in good],
                [list(references[i]) for i in good],
                [prompts[i] for i in good],
                batch=self.batch,
            )
        except torch.OutOfMemoryError as error:
            raise MachineError(
                f"out of memory while scoring {len(good)} clips: {error}", fix="lower --score-batch"
            ) from error
        with torch.inference_mode():
            scores = self.network.score_features(features.to(self.network.head.weight.device)).tolist()
        for index, score in zip(good, scores, strict=True):
            out[index] = score if math.isfinite(score) else RewardFailure(f"the score is {score}")
        return out

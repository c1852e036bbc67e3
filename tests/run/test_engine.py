"""The plain engine on ranks that are threads' stand-ins: gradients meet in buckets of a bounded size."""

import pytest
import torch
from torch import nn

from idgrpo.run import engine
from idgrpo.run.distributed import World
from idgrpo.run.engine import OptimizerSettings, PlainEngine, buckets


def sizes(numbers: list[int], size: int) -> list[list[int]]:
    return [[t.numel() for t in bucket] for bucket in buckets([torch.zeros(n) for n in numbers], size)]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([], []),
        ([3, 3, 3], [[3, 3], [3]]),
        ([9, 1, 2], [[9], [1, 2]]),  # larger than a bucket: alone
        ([6], [[6]]),
        ([2, 4, 5], [[2, 4], [5]]),
    ],
)
def test_buckets_hold_all_in_order_and_no_more_than_asked(numbers, expected):
    assert sizes(numbers, 6) == expected


class TwoAlike(World):
    """A world of two ranks that always hold the same."""

    size = 2

    def __init__(self) -> None:
        self.sums: list[int] = []

    def sum_(self, tensor):
        self.sums.append(tensor.numel())
        return tensor.mul_(2)


def test_gradients_are_summed_in_buckets_and_missing_ones_are_zeros(monkeypatch):
    monkeypatch.setattr(engine, "BUCKET_SIZE", 10)
    weights = {name: nn.Parameter(torch.zeros(n)) for name, n in (("a", 6), ("b", 4), ("c", 12))}
    world = TwoAlike()
    made = PlainEngine(weights, OptimizerSettings(0.1, (0.9, 0.99), 1e-8, 0.0, 1e9), world)
    (weights["a"].sum() + 3 * weights["c"].sum()).backward()
    made._sum_gradients()
    assert world.sums == [10, 12]
    assert [float(weights[name].grad.mean()) for name in "abc"] == [2.0, 0.0, 6.0]

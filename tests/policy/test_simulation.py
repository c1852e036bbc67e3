"""Memory of an update on fake tensors: what is counted, and that it follows the settings it should follow."""

import pytest
import torch

from idgrpo.bases.entries import ENTRIES
from idgrpo.bases.inventory import configs_of_entry
from idgrpo.policy.recipes import recipe
from idgrpo.policy.simulation import LiveBytes, simulated_peaks


def test_bytes_count_once_and_until_they_are_freed():
    with LiveBytes() as live:
        first = torch.zeros(1000)
        view, second = first[:10], torch.ones(500)
        assert live.now == live.peak == 6000
        del second
        assert (live.now, live.peak) == (4000, 6000)
        del first
        assert live.now == 4000 and view.sum() == 0  # a view keeps its storage
    assert live.above(lambda: None, 1000) == live.now - 1000


@pytest.mark.parametrize("base", ["tiny-vace", "tiny-phantom"])
def test_peaks_follow_micro_batch_and_rollout_batch(base):
    entry, configs, found = ENTRIES[base], configs_of_entry(ENTRIES[base]), {}
    for micro_batch, batch_size in ((2, 4), (4, 8)):
        config = recipe("default", base)
        config = config.model_copy(
            update={
                "loss": config.loss.model_copy(update={"micro_batch": micro_batch}),
                "rollout": config.rollout.model_copy(update={"batch_size": batch_size}),
            }
        )
        found[micro_batch] = simulated_peaks(entry, *configs, config, entry.train_size, 2)
    small, large = found[2], found[4]
    assert large.resident == small.resident and large.step == small.step
    assert 1.7 < large.replay / small.replay <= 2.05
    assert 1.7 < large.rollout / small.rollout <= 2.05

"""The arithmetic of an update: shares of the authors' recipe, ZeRO's memory and traffic, what fits."""

import pytest

from idgrpo.bases.entries import ENTRIES
from idgrpo.policy.config import PolicyConfig
from idgrpo.policy.cost import Load, Machine, best_plan, plan, sample_cost
from idgrpo.policy.forecast import load_of
from idgrpo.policy.recipes import recipe

GPU = Machine(tflops=300, memory_gib=80, link_gb_s=50)


def test_paper_recipe_costs_what_was_counted_for_the_authors():
    cost = sample_cost(recipe("paper", "vace"), 22.58, 2)
    assert cost.total == pytest.approx(5790, rel=0.02)  # 5.79 PFLOP a sample
    assert cost.rollout / cost.total == pytest.approx(0.195, abs=0.01)
    assert cost.replay / cost.total == pytest.approx(0.605, abs=0.01)


def test_switches_cut_what_they_should():
    def cost(**changes):
        return sample_cost(
            PolicyConfig.model_validate({"rollout": {"guidance": {"mode": "both-grad"}}} | changes), 1.0, 2
        )

    whole = cost()
    assert cost(kl={"weight": 0.0}).reference == 0 < whole.reference
    assert cost(kl={"steps": "first"}).reference == whole.reference / 2  # two stored steps
    detached = cost(rollout={"guidance": {"mode": "detach-uncond"}})
    assert detached.rollout == whole.rollout and detached.replay < whole.replay
    assert cost(rollout={"guidance": {"mode": "none"}}).total == whole.total / 2
    assert cost(loss={"num_passes": 2}).replay == 2 * whole.replay
    held = cost(advantage={"controls": ("sharpness",), "hold": 1.0}).rollout  # a base's sample in each group of 8
    assert held == pytest.approx(whole.rollout * 9 / 8)


def load(**changes):
    given = {
        "sample_tflop": 100.0,
        "base_gib": 4.0,
        "base_parameters": 2 * 2**30,
        "base_gib_extra": 1.0,
        "trained_parameters": 2**28,
        "activation_gib": 2.0,
        "rollout_gib": 1.5,
        "start_gib": 0.0,
        "num_forwards_rollout": 100,
        "num_pairs": 64,
    }
    return Load(**given | changes)


def test_stages_share_the_adapter_and_stage_3_pays_in_traffic():
    config = PolicyConfig.model_validate({"engine": {"zero": 3}})
    plans = [plan(load(), config, GPU, 4, zero, 1) for zero in range(4)]
    states = [one.memory_gib - 4.0 - 1.0 - 2.0 for one in plans]
    assert states == pytest.approx([4.0, 2.5, 1.75, 1.0])  # GiB: weights, gradients and two moments of 2^28 float32
    # 64 pairs on 4 ranks, one at a time: 16 micro-batches. 1 GiB is trained, three quarters of all is moved.
    moved = [2.0, 3.0, 2 * 16 + 1, 16 + 1 + (3 * 16 + 2) * 4.0]
    assert [one.traffic_gib for one in plans] == pytest.approx([0.75 * gib for gib in moved])
    small = plan(load(base_parameters=10**6), config, GPU, 4, 3, 1)
    assert small.traffic_gib == pytest.approx(0.75 * (17 + (16 + 2) * 4.0))  # gathered once for forward and backward
    layers = PolicyConfig.model_validate({"engine": {"zero": 3, "whole_rollout": False}})
    assert plan(load(), layers, GPU, 4, 3, 1).memory_gib == pytest.approx(plans[3].memory_gib - 3.0)


def test_more_gpus_less_time_and_one_gpu_no_traffic():
    config = PolicyConfig()
    one, many = (plan(load(), config, GPU, gpus, 0, 1) for gpus in (1, 8))
    assert one.traffic_gib == one.sync_s == 0 and many.compute_s == pytest.approx(one.compute_s / 8)


def test_plainest_stage_with_the_largest_micro_batch_that_fits():
    chosen = best_plan(load(), PolicyConfig(), GPU, 4)
    assert chosen.fits and chosen.zero == 0 and chosen.micro_batch == 16
    tight = best_plan(load(), PolicyConfig(), Machine(300, 9.6, 50), 4)
    assert (
        tight.fits
        and tight.memory_gib < Machine(300, 9.6, 50).usable_gib < 9.1
        and tight.zero == 2
        and tight.micro_batch == 1
    )
    assert not best_plan(load(), PolicyConfig(), Machine(300, 3.0, 50), 4).fits


def test_whole_weights_need_memory_that_stages_divide_and_a_tenth_more_compute():
    adapter, full = (load_of(ENTRIES["vace"], recipe(name, "vace"), 2) for name in ("default", "full"))
    assert full.trained_parameters > 1.3e9 > 30 * adapter.trained_parameters
    assert 1.05 < full.sample_tflop / adapter.sample_tflop < 1.3  # only the replay costs more
    config = recipe("full", "vace")
    plans = [plan(full, config, GPU, 8, zero, 1) for zero in range(3)]
    weights = full.trained_parameters * 4 / 2**30
    assert plans[0].memory_gib - plans[1].memory_gib == pytest.approx(2 * weights * 7 / 8)
    assert plans[1].memory_gib - plans[2].memory_gib == pytest.approx(weights * 7 / 8)


@pytest.mark.parametrize("name", ["vace", "phantom", "vace-14b", "tiny-phantom"])
def test_every_base_can_be_sized_without_weights(name):
    sized = load_of(ENTRIES[name], recipe("default", name), 2)
    assert sized.sample_tflop > 0 and sized.base_gib > 0 and sized.trained_parameters > 1000

"""The trainer on a linear base: one update, failures, non-finite numbers, world-invariance of what it computes."""

import math
from types import SimpleNamespace

import pytest
import torch
from fake_base import SIZE, FakeBase

from idgrpo.errors import IdgrpoError, StoppedError, UsageError
from idgrpo.evaluate.texture import mean_sharpness
from idgrpo.policy.config import OptimizerConfig, PolicyConfig
from idgrpo.policy.scoring import RewardScorer
from idgrpo.policy.trainer import Trainer
from idgrpo.policy.weights import snapshot, trained_weights
from idgrpo.run.distributed import World
from idgrpo.run.engine import OptimizerSettings, PlainEngine


class Book:
    """Cases in memory, with the interface of `CaseBook`."""

    def __init__(self, base, num_cases):
        self.cases = [SimpleNamespace(id=f"case-{i}", prompt="p" * (i + 1)) for i in range(num_cases)]
        self.base = base

    def __len__(self):
        return len(self.cases)

    def references(self, index):
        return [torch.zeros(3, 8, 8, dtype=torch.uint8)] * 2

    def __getitem__(self, index):
        return self.base.encode(self.cases[index].prompt, self.references(index), SIZE)


def brightness(videos, references, prompts):
    return [float(video.float().mean()) / 255 for video in videos]


def make_trainer(tmp_path, reward=brightness, base=None, num_cases=5, overlap=False, **changes):
    base = base or FakeBase()
    settings = {
        "group": {"num_cases": 3, "size": 4},
        "rollout": {"num_steps": 6, "window": {"size": 2, "last": 5}},
        "kl": {"reference": "start"},
        "optimizer": {"lr": 1e-2},
        "preview": {"every": 0},
        "reward": {"retry_wait_s": 0.0, "overlap": overlap},
    } | changes
    config = PolicyConfig.model_validate(settings)
    weights = trained_weights(base.transformer)
    engine = PlainEngine(weights, OptimizerSettings(1e-2, (0.9, 0.999), 1e-8, 0.0, 1.0), World())
    scorer = RewardScorer(reward, config.reward)
    return Trainer(base, Book(base, num_cases), scorer, config, engine, start=snapshot(weights), folder=tmp_path)


def test_updates_raise_the_reward(tmp_path):
    trainer = make_trainer(tmp_path, kl={"weight": 0.0}, num_updates=40)
    rewards = [trainer.update()["reward_mean"] for _ in range(40)]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.01
    assert trainer.completed == 40


def test_kl_holds_the_policy_at_its_start(tmp_path):
    def moved(weight):
        trainer = make_trainer(tmp_path, kl={"weight": weight, "reference": "start"})
        for _ in range(10):
            trainer.update()
        return sum(float((trainer.weights[name].detach() - value).abs().sum()) for name, value in trainer.start.items())

    assert moved(100.0) < 0.5 * moved(0.0)


def test_same_seed_same_weights_other_seed_other_weights(tmp_path):
    def weights(seed):
        trainer = make_trainer(tmp_path, seed=seed)
        for _ in range(3):
            trainer.update()
        return torch.cat([value.detach().flatten() for value in trainer.weights.values()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_figures_of_an_update(tmp_path):
    figures = make_trainer(tmp_path).update()
    assert figures["ratio_min"] == pytest.approx(1.0, abs=1e-6) == figures["ratio_max"]
    assert figures["samples_trained"] == 12 and figures["group_size_min"] == 4
    assert figures["grad_norm"] > 0 and figures["kl"] == 0.0
    phases = ("rollout", "decode", "reward", "sync", "update")
    assert {f"seconds_{phase}" for phase in phases} <= figures.keys()
    assert 0 < figures["samples_per_second"] < 12 / figures["seconds_update"]
    assert all(math.isfinite(value) for value in figures.values() if isinstance(value, float))


def test_constant_reward_makes_no_step(tmp_path):
    trainer = make_trainer(tmp_path, reward=lambda v, r, p: [1.0] * len(v))
    before = snapshot(trainer.weights)
    figures = trainer.update()
    assert figures["zero_variance_share"] == 1 and figures["skipped_steps"] == 1
    assert all(torch.equal(value, before[name]) for name, value in trainer.weights.items())


def test_failed_rewards_are_masked_and_small_groups_dropped(tmp_path):
    def reward(videos, references, prompts):
        values = brightness(videos, references, prompts)
        return [None if (index in (0, 4, 5, 6) and len(videos) == 12) or len(videos) < 12 else value
                for index, value in enumerate(values)]  # fmt: skip

    figures = make_trainer(tmp_path, reward=reward).update()
    assert figures["reward_failed_share"] == pytest.approx(4 / 12)
    assert figures["groups_dropped"] == 1
    assert figures["samples_trained"] == 3 + 4


def test_outage_stops_before_anything_changed(tmp_path):
    def away(videos, references, prompts):
        raise ConnectionError("away")

    trainer = make_trainer(tmp_path, reward=away)
    before = snapshot(trainer.weights)
    with pytest.raises(StoppedError, match="0% of the rewards"):
        trainer.update()
    assert trainer.completed == 0
    assert all(torch.equal(value, before[name]) for name, value in trainer.weights.items())


def test_stop_request_inside_an_update_changes_nothing(tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(StoppedError, match="inside update 1"):
        trainer.update(lambda: True)
    assert trainer.completed == 0


def test_non_finite_gradient_stops_before_the_optimizer(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.update()
    before, moments = snapshot(trainer.weights), len(trainer.engine.optimizer.state)
    trainer.replay.loss_function = poisoned(trainer.replay.loss_function)
    with pytest.raises(IdgrpoError, match="not finite"):
        trainer.update()
    assert all(torch.equal(value, before[name]) for name, value in trainer.weights.items())
    assert len(trainer.engine.optimizer.state) == moments and trainer.completed == 1


def poisoned(loss_function):
    def poisoned_loss(inputs):
        terms = loss_function(inputs)
        return type(terms)(terms.loss * math.inf, terms.ratio, terms.clipped_high, terms.clipped_low)

    return poisoned_loss


def test_second_pass_leaves_ratio_one_and_the_clip_bites(tmp_path):
    trainer = make_trainer(tmp_path, loss={"num_passes": 3, "clip": 1e-3, "ratio_tolerance": 1e-5})
    figures = trainer.update()
    assert figures["log_ratio_max"] > 1e-4
    assert figures["clip_share_high"] + figures["clip_share_low"] > 0


def test_self_check_gates_the_first_update(tmp_path):
    trainer = make_trainer(tmp_path)
    velocity = trainer.base.velocity
    # A velocity that depends on whether gradients are on, as a dropout or a mixed dtype would make it.
    trainer.base.velocity = lambda *inputs: velocity(*inputs) * (1.01 if torch.is_grad_enabled() else 1.0)
    before = snapshot(trainer.weights)
    with pytest.raises(IdgrpoError, match="does not reproduce the rollout"):
        trainer.update()
    assert all(torch.equal(value, before[name]) for name, value in trainer.weights.items())


def test_average_is_published_and_weights_come_back(tmp_path):
    trainer = make_trainer(tmp_path, ema={"decay": 0.5})
    start = trainer.weights["gain"].item()
    trainer.update()
    now = trainer.weights["gain"].item()
    assert now != start
    with trainer.published():
        assert trainer.weights["gain"].item() == pytest.approx((start + now) / 2)
    assert trainer.weights["gain"].item() == now


def test_merged_rollout_needs_float32(tmp_path):
    with pytest.raises(UsageError, match="rollout.merged"):
        make_trainer(tmp_path, base=FakeBase(dtype=torch.bfloat16), rollout={"merged": True})


def test_scoring_beside_the_next_rollout_gives_the_same_training(tmp_path):
    def weights(overlap):
        rollout = {"num_steps": 6, "window": {"size": 2, "last": 5}, "batch_size": 5}
        trainer = make_trainer(tmp_path, reward=counted, overlap=overlap, rollout=rollout)
        figures = [trainer.update()["reward_mean"] for _ in range(2)]
        return figures, torch.cat([value.detach().flatten() for value in trainer.weights.values()])

    sizes = []

    def counted(videos, references, prompts):
        sizes.append(len(videos))
        return brightness(videos, references, prompts)

    (figures, one), (other_figures, other) = weights(False), weights(True)
    assert figures == other_figures and torch.equal(one, other)
    assert sizes == [12, 12, 5, 5, 2, 5, 5, 2]  # batch by batch while the next is rolled out


def test_an_error_in_the_scoring_thread_reaches_the_trainer(tmp_path):
    def broken(videos, references, prompts):
        raise ValueError("wrong shape")

    trainer = make_trainer(tmp_path, reward=broken, overlap=True)
    with pytest.raises(ValueError, match="wrong shape"):
        trainer.update()


def test_nobody_earns_by_a_control(tmp_path):
    def sharp(videos, references, prompts):
        return [mean_sharpness(video) for video in videos]

    paid = make_trainer(tmp_path / "paid", reward=sharp).update()
    controlled = make_trainer(
        tmp_path / "controlled", reward=sharp, advantage={"controls": ("sharpness",), "std_floor": 0.0}
    ).update()
    assert paid["advantage_abs_mean"] > 0.5 and paid["advantage_explained_share"] == 0
    assert controlled["advantage_abs_mean"] < 1e-3 and controlled["advantage_explained_share"] > 0.999


def test_a_drift_from_the_base_is_pulled_back(tmp_path):
    """A policy whose pictures are harsher than the base's finds the sharper half of its clips at a disadvantage."""

    def of_another_taste(videos, references, prompts):
        return [float(video[0, 0, 0, 0]) for video in videos]

    def update(hold):
        trainer = make_trainer(
            tmp_path, reward=of_another_taste, advantage={"controls": ("sharpness",), "hold": hold}, loss={"clip": 0.1}
        )
        with torch.no_grad():
            trainer.weights["gain"].mul_(0.7)  # less is taken away from the noise: what is left is coarser
        seen = []
        source = trainer.source
        credited, source._advantages = source._advantages, lambda *given: seen.append(credited(*given)) or seen[0]
        figures = trainer.update()
        sharpness = source._measured("sharpness", list(source.videos.values())).reshape(3, 4)
        spread = sharpness.std(1, keepdim=True, unbiased=False)
        return figures, float((seen[0].values * (sharpness - sharpness.mean(1, keepdim=True)) / spread).mean())

    free, slope = update(0.0)
    held, pulled = update(50.0)
    assert "drift_sharpness" not in free and held["drift_sharpness"] > 0.01
    assert abs(slope) < 1e-6
    assert pulled == pytest.approx(-50 * held["drift_sharpness"], rel=1e-5)


def test_nothing_drifts_before_the_first_update(tmp_path):
    assert make_trainer(tmp_path, advantage={"controls": ("sharpness",), "hold": 1.0}).update()["drift_sharpness"] == 0


def test_holding_without_controls_is_refused():
    with pytest.raises(ValueError, match="nothing to hold"):
        PolicyConfig.model_validate({"advantage": {"hold": 1.0}})


def test_the_rate_warms_up_and_falls_as_asked(tmp_path):
    setting = {"lr": 2.0, "warmup": 2, "schedule": "cosine"}
    rates = [OptimizerConfig.model_validate(setting).rate(update, 6) for update in range(7)]
    assert rates == pytest.approx([1.0, 2.0, 2.0, 1 + 2**-0.5, 1.0, 1 - 2**-0.5, 0.0])
    constant = OptimizerConfig.model_validate(setting | {"schedule": "constant"})
    assert [constant.rate(update, 6) for update in range(4)] == [1.0, 2.0, 2.0, 2.0]
    trainer = make_trainer(tmp_path, num_updates=2, optimizer={"lr": 1e-2, "schedule": "cosine"})
    assert [trainer.update()["lr"] for _ in range(2)] == pytest.approx([1e-2, 5e-3])

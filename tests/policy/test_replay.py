"""Replay: gradients against hand-written ones, layouts, and the on-policy self-check with planted faults."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from fake_base import FakeBase, conditions_of, rows_of
from torch._subclasses.fake_tensor import FakeTensorMode

from idgrpo.errors import IdgrpoError
from idgrpo.policy.config import KLConfig, PolicyLossConfig, RolloutConfig, WindowConfig
from idgrpo.policy.loss import load_loss
from idgrpo.policy.replay import Replay, ReplayFigures, check_on_policy, gaussian_kl, pair_batches, tolerances
from idgrpo.policy.rollout import Draws, roll_out
from idgrpo.policy.schedule import Schedule
from idgrpo.policy.simulation import LiveBytes
from idgrpo.policy.weights import swapped, trained_weights

CONFIG = RolloutConfig(num_steps=6, window=WindowConfig(last=5))
SCHEDULE = Schedule.from_config(CONFIG)


def rollout(base, window=(1, 3)):
    return roll_out(
        base,
        rows_of(2, 2),
        conditions_of(base, 2),
        schedule=SCHEDULE,
        window=window,
        guidance=base.entry.guidance,
        draws=Draws(0, 0, "different"),
    )


def replay_of(base, *, loss=None, kl_weight=0.0, kl_steps="all", reference=nullcontext, schedule=SCHEDULE):
    loss = loss or PolicyLossConfig()
    kl = KLConfig(weight=kl_weight, steps=kl_steps)
    return Replay(base, schedule.step, base.entry.guidance, loss, kl, load_loss(loss.name), reference)


def batches_of(trajectory, advantages, *, micro_batch=32, kl_steps="all"):
    advantages = torch.tensor(advantages)
    kept = advantages != 0
    weights = dict.fromkeys(range(6), 1.0)
    settings = {"micro_batch": micro_batch, "step_weights": weights, "kl_steps": kl_steps}
    return pair_batches(trajectory, advantages, kept, **settings)


def run(base, trajectory, advantages, *, micro_batch=32, **settings):
    batches = batches_of(trajectory, advantages, micro_batch=micro_batch, kl_steps=settings.get("kl_steps", "all"))
    total = sum(len(gather().steps) for gather in batches)
    return replay_of(base, **settings).run(batches, total, lambda loss, is_last: loss.backward())


def gradients(base):
    grads = {name: p.grad.clone() for name, p in base.transformer.named_parameters()}
    base.transformer.zero_grad()
    return grads


def test_policy_gradient_of_one_step_equals_the_hand_written_one(fake_base):
    trajectory = rollout(fake_base, window=(2,))
    advantages = [1.5, -0.5, 0.7, -2.0]
    run(fake_base, trajectory, advantages)
    got = gradients(fake_base)["gain"]

    # d/d gain of -A exp(logp - logp_old) at ratio 1 is -A d logp / d gain, with v = ... + gain x (0.5 + sigma) and
    # mean = ... + v dt (1 + std_t^2 (1 - s) / (2 s)); d logp / d mean = (x' - mean) / std^2 / num_elements.
    step = trajectory.stored[0]
    s, dt = step.sigma, step.sigma_next - step.sigma
    level = 0.1 + 0.8 * s
    slope = dt * (1 + level**2 * (1 - s) / (2 * s))
    d_mean = slope * step.x * (0.5 + s)
    d_log_prob = ((step.x_next - step.mean) / (level**2 * -dt) * d_mean).flatten(1).mean(1)
    expected = -(torch.tensor(advantages) * d_log_prob).mean()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["clip", "ratio-norm", "kl-mask"])
def test_gradient_does_not_depend_on_the_batch_layout(name):
    base = FakeBase()
    trajectory, advantages = rollout(base), [1.0, -1.0, 2.0, -2.0]
    loss = PolicyLossConfig(name=name)
    run(base, trajectory, advantages, loss=loss)
    whole = gradients(base)
    run(base, trajectory, advantages, loss=loss, micro_batch=3)
    for name, grad in gradients(base).items():
        torch.testing.assert_close(grad, whole[name], rtol=1e-4, atol=1e-7)
    assert all(grad.abs().sum() > 0 for grad in whole.values())


def test_kl_gradient_is_zero_at_the_reference_and_not_away_from_it(fake_base):
    trajectory = rollout(fake_base)
    weights = trained_weights(fake_base.transformer)
    same = {name: value.detach().clone() for name, value in weights.items()}
    moved = {name: value + 0.1 for name, value in same.items()}

    def kl_gradient(reference):
        figures = run(fake_base, trajectory, [1.0] * 4, kl_weight=1.0, reference=lambda: swapped(weights, reference))
        with_kl = gradients(fake_base)
        run(fake_base, trajectory, [1.0] * 4)
        without = gradients(fake_base)
        return torch.cat(figures.kl), {name: with_kl[name] - without[name] for name in with_kl}

    kl, grad = kl_gradient(same)
    assert kl.abs().max() == 0
    assert all(value.abs().max() < 1e-7 for value in grad.values())
    kl, grad = kl_gradient(moved)
    assert kl.min() > 0
    assert all(value.abs().max() > 1e-4 for value in grad.values())
    # The reference was above the policy, so descending the KL must raise `gain`.
    assert grad["gain"] < 0


def test_kl_on_the_first_stored_step_only(fake_base):
    trajectory, weights = rollout(fake_base), trained_weights(fake_base.transformer)
    moved = {name: value.detach() + 0.1 for name, value in weights.items()}
    reference = {"kl_weight": 1.0, "reference": lambda: swapped(weights, moved)}
    every = run(fake_base, trajectory, [1.0] * 4, **reference)
    first = run(fake_base, trajectory, [1.0] * 4, kl_steps="first", **reference)
    assert len(torch.cat(every.kl)) == 8 and len(torch.cat(first.kl)) == 4
    torch.testing.assert_close(torch.cat(first.kl), torch.cat(every.kl)[::2])


@pytest.mark.parametrize("kl_steps", ["all", "first"])
def test_kl_does_not_depend_on_the_batch_layout(kl_steps):
    base = FakeBase()
    trajectory, weights = rollout(base), trained_weights(base.transformer)
    moved = {name: value.detach() + 0.1 for name, value in weights.items()}
    settings = {"kl_weight": 1.0, "kl_steps": kl_steps, "reference": lambda: swapped(weights, moved)}
    advantages = [1.0, -1.0, 2.0, -2.0]

    def outcome(micro_batch):
        losses = []
        batches = batches_of(trajectory, advantages, micro_batch=micro_batch, kl_steps=kl_steps)
        for gather in batches:
            losses.append(replay_of(base, **settings).loss_of(gather(), ReplayFigures()) / 8)
            losses[-1].backward()
        return float(sum(losses)), gradients(base)

    loss, whole = outcome(8)
    for micro_batch in (1, 2, 3):
        other, grads = outcome(micro_batch)
        assert other == pytest.approx(loss, rel=1e-4)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, whole[name], rtol=1e-4, atol=1e-6)


def test_dropped_samples_are_not_replayed(fake_base):
    trajectory = rollout(fake_base)
    fake_base.calls.clear()
    run(fake_base, trajectory, [1.0, -1.0, 0.0, 0.0])
    assert fake_base.calls == [4]  # two samples, two stored steps, one forward


def check(base, trajectory, **settings):
    figures = ReplayFigures()
    for gather in batches_of(trajectory, [1.0] * 4):
        replay_of(base, **settings).loss_of(gather(), figures)
    return check_on_policy(figures, *tolerances(PolicyLossConfig(), torch.float32))


def test_figures_leave_the_device_before_ranks_gather_them():
    with FakeTensorMode():  # tensors of a GPU that need none
        figures = ReplayFigures(
            log_ratio=[torch.empty(3, device="cuda")], kl=[torch.empty(1, device="cuda")], steps=[4]
        )
        moved = figures.on_cpu()
    assert [part.device.type for part in moved.log_ratio + moved.kl] == ["cpu", "cpu"] and moved.steps == [4]


def test_self_check_passes_on_policy(fake_base):
    ratio, shift = check(fake_base, rollout(fake_base))
    assert ratio <= 1e-6 and shift <= 1e-5


def test_self_check_names_a_planted_dtype_mismatch(fake_base):
    trajectory = rollout(fake_base)
    rounded = [replace(step, x=step.x.bfloat16().float()) for step in trajectory.stored]
    with pytest.raises(IdgrpoError, match="does not reproduce the rollout") as error:
        check(fake_base, replace(trajectory, stored=rounded))
    assert "dtype" in error.value.fix


def test_self_check_names_a_planted_schedule_mismatch(fake_base):
    trajectory = rollout(fake_base)
    other = Schedule.from_config(CONFIG.model_copy(update={"std_max": 0.91}))
    with pytest.raises(IdgrpoError, match="log ratio") as error:
        check(fake_base, trajectory, schedule=other)
    assert "schedule" in error.value.fix


def test_self_check_catches_changed_weights(fake_base):
    trajectory = rollout(fake_base)
    with torch.no_grad():
        fake_base.transformer.gain += 0.01
    with pytest.raises(IdgrpoError, match="before the first update"):
        check(fake_base, trajectory)


def test_kl_closed_form_against_torch_distributions():
    g = torch.Generator().manual_seed(1)
    mean, reference = torch.randn(2, 4, 3, 2, 2, generator=g), torch.randn(2, 4, 3, 2, 2, generator=g)
    std = torch.tensor([0.3, 0.7]).reshape(2, 1, 1, 1, 1)
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(reference, std)
    )
    torch.testing.assert_close(gaussian_kl(mean, reference, std), exact.flatten(1).mean(1))


def test_kl_gradient_flows_and_vanishes_only_at_the_reference():
    reference = torch.zeros(1, 2, 1, 2, 2)
    mean = torch.full_like(reference, 0.5, requires_grad=True)
    gaussian_kl(mean, reference, torch.tensor(0.5)).sum().backward()
    # d/dmu mean(mu^2 / (2 std^2)) = mu / std^2 / n
    assert mean.grad.flatten().tolist() == pytest.approx([0.5 / 0.25 / 8] * 8)
    same = reference.clone().requires_grad_()
    gaussian_kl(same, reference, torch.tensor(0.5)).sum().backward()
    assert same.grad.abs().sum() == 0


def test_reference_slots_do_not_count():
    mean, reference = torch.zeros(1, 2, 3, 2, 2), torch.zeros(1, 2, 3, 2, 2)
    mean[:, :, 0] = 100.0
    mask = torch.ones(1, 1, 3, 1, 1)
    mask[:, :, 0] = 0
    assert gaussian_kl(mean, reference, torch.tensor(1.0), mask).item() == 0
    mean[:, :, 1] = 1.0
    assert gaussian_kl(mean, reference, torch.tensor(1.0), mask).item() == pytest.approx(0.25)


def test_the_memory_of_an_update_does_not_grow_with_its_micro_batches(fake_base):
    """Copies of all pairs of an update took 5.6 GiB in the default recipe, and stayed until its end."""
    trajectory = rollout(fake_base)
    peaks = []
    for count in (1, 4):
        advantages = [1.0] * count + [0.0] * (4 - count)
        with LiveBytes() as live:
            batches = batches_of(trajectory, advantages, micro_batch=1)
            assert live.now < 100  # two small tensors: advantages, kept
            replay_of(fake_base).run(batches, len(batches), lambda loss, is_last: None)
        assert len(batches) == 2 * count
        peaks.append(live.peak)
        trajectory_bytes = sum(step.x.nbytes for step in trajectory.stored)
    assert peaks[1] - peaks[0] < trajectory_bytes / 4 / 2  # less than one state more, for three samples more

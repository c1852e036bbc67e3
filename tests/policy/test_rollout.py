import pytest
import torch
from fake_base import FakeBase, conditions_of, rows_of
from pydantic import ValidationError

from idgrpo.flow.laws import stochastic_step
from idgrpo.policy.config import RolloutConfig, WindowConfig
from idgrpo.policy.rollout import Draws, chunks_of, roll_out, videos_of
from idgrpo.policy.schedule import Schedule, window_steps


def trajectory_of(base, *, window=(1, 2), noise="different", update=0, rows=None, solver="euler"):
    config = RolloutConfig(num_steps=6, window=WindowConfig(last=5))
    rows = rows or rows_of(2, 3)
    return roll_out(
        base,
        rows,
        conditions_of(base, 4),
        schedule=Schedule.from_config(config),
        window=window,
        guidance=base.entry.guidance,
        draws=Draws(0, update, noise),
        solver=solver,
    )


def test_stored_steps_are_the_window_and_carry_their_sigmas(fake_base):
    trajectory = trajectory_of(fake_base)
    assert [step.index for step in trajectory.stored] == [1, 2]
    assert fake_base.calls == [6] * 6  # one forward a step, whole batch
    first, second = trajectory.stored
    assert first.sigma_next == second.sigma and torch.equal(first.x_next, second.x)
    assert {first.x.dtype, first.x_next.dtype, first.log_prob.dtype, trajectory.latents.dtype} == {torch.float32}
    assert not first.x.requires_grad


def test_outside_the_window_the_path_is_deterministic(fake_base):
    a, b = trajectory_of(fake_base, window=()), trajectory_of(fake_base, window=())
    assert torch.equal(a.latents, b.latents) and a.stored == []
    # From the last stored state on, the plain ODE leads to the final latents: no noise after the window.
    stored = trajectory_of(fake_base).stored[-1]
    x, rows = stored.x_next, rows_of(2, 3)
    sigmas = Schedule.from_config(RolloutConfig(num_steps=6, window=WindowConfig(last=5))).sigmas
    batch = fake_base.collate([conditions_of(fake_base, 4)[row.case] for row in rows])
    with torch.no_grad():
        for i in range(3, 6):
            v = fake_base.velocity(x, sigmas[i].expand(6), batch, None)
            x = x + v * float(sigmas[i + 1] - sigmas[i])
    torch.testing.assert_close(x, trajectory_of(fake_base).latents)


def test_each_sample_is_the_same_alone_and_in_a_batch(fake_base):
    rows = rows_of(2, 3)
    whole = trajectory_of(fake_base, rows=rows)
    alone = trajectory_of(fake_base, rows=rows[4:5])
    torch.testing.assert_close(whole.latents[4], alone.latents[0])
    torch.testing.assert_close(whole.stored[1].log_prob[4], alone.stored[1].log_prob[0])


def test_noise_different_or_shared_within_a_group(fake_base):
    different = trajectory_of(fake_base, window=())
    shared = trajectory_of(fake_base, window=(), noise="shared")
    assert not torch.equal(different.latents[0], different.latents[1])
    assert torch.equal(shared.latents[0], shared.latents[1])
    assert not torch.equal(shared.latents[0], shared.latents[3])  # another case
    # Shared starting noise still gives different videos once a window adds noise.
    stochastic = trajectory_of(fake_base, noise="shared")
    assert not torch.equal(stochastic.latents[0], stochastic.latents[1])


def test_draws_change_with_the_update(fake_base):
    a, b = trajectory_of(fake_base, update=0), trajectory_of(fake_base, update=1)
    assert not torch.equal(a.latents, b.latents)


def test_reference_slots_do_not_enter_log_prob():
    base = FakeBase(slots=True)
    trajectory = trajectory_of(base)
    step = trajectory.stored[0]
    assert step.x.shape[2] == 5  # 2 slots in front, 3 video frames
    std = stochastic_step(
        "wan", step.x, step.x, torch.tensor(step.sigma), torch.tensor(step.sigma_next), sigma_max=0.9, sigma_min=0.1
    )[1]
    video = (step.x_next - step.mean)[:, :, 2:] / std
    expected = (-0.5 * video.square() - std.log() - 0.5 * torch.log(torch.tensor(2 * torch.pi))).flatten(1).mean(1)
    torch.testing.assert_close(step.log_prob, expected)


@pytest.mark.parametrize("solver", ["euler", "second-order"])
def test_videos_are_bytes(fake_base, solver):
    videos = videos_of(fake_base, trajectory_of(fake_base, solver=solver))
    assert len(videos) == 6 and videos[0].dtype == torch.uint8 and videos[0].shape == (3, 3, 4, 4)


def test_chunks_hold_one_number_of_references_and_all_rows():
    base = FakeBase()
    conditions = conditions_of(base, 2) | {2: conditions_of(base, 1, num_references=3)[0]}
    rows = rows_of(3, 4)
    chunks = chunks_of(rows, conditions, batch_size=3)
    assert sorted((r.slot, r.member) for chunk in chunks for r in chunk) == [(r.slot, r.member) for r in rows]
    for chunk in chunks:
        assert len(chunk) <= 3
        assert len({conditions[row.case].num_references for row in chunk}) == 1


def test_step_weights_cancel_the_growth_of_the_gradient():
    schedule = Schedule.from_config(
        RolloutConfig(num_steps=25, std_min=0.0, std_max=None, window=WindowConfig(last=24))
    )
    # Published figures of the method: 0.12 at the first of 25 steps, 1.6 at the 24th, at the shift of 3.
    assert schedule.gradient_scale(23) / schedule.gradient_scale(0) > 10
    weights = schedule.step_weights("equalise", range(24))
    assert sum(weights.values()) / 24 == pytest.approx(1.0)
    products = [weights[step] * schedule.gradient_scale(step) for step in range(24)]
    assert max(products) / min(products) == pytest.approx(1.0)
    assert set(schedule.step_weights("none", range(24)).values()) == {1.0}


@pytest.mark.parametrize("move", ["random", "slide", "fixed", "scatter"])
def test_window_stays_in_range_and_is_pure(move):
    config = WindowConfig(size=2, first=1, last=6, move=move)
    for update in range(40):
        steps = window_steps(config, 5, update)
        assert len(steps) == 2 and list(steps) == sorted(set(steps))
        assert all(1 <= step < 6 for step in steps)
        assert steps == window_steps(config, 5, update)


def test_random_window_visits_every_place_and_depends_on_the_seed():
    config = WindowConfig(size=2, first=0, last=5)
    seen = {window_steps(config, 0, update) for update in range(60)}
    assert seen == {(0, 1), (1, 2), (2, 3), (3, 4)}
    assert [window_steps(config, 0, u) for u in range(20)] != [window_steps(config, 1, u) for u in range(20)]


def test_slide_moves_by_stride_every_n_updates_and_wraps():
    config = WindowConfig(size=2, first=0, last=5, move="slide", every=2, stride=3)
    starts = [window_steps(config, 0, update)[0] for update in range(8)]
    assert starts == [0, 0, 3, 3, 2, 2, 1, 1]


def test_last_step_cannot_be_stochastic():
    with pytest.raises(ValidationError, match="nearest valid: window.last=7"):
        RolloutConfig(num_steps=8, window=WindowConfig(size=2, last=8))


def test_window_larger_than_its_range_is_refused():
    with pytest.raises(ValidationError, match="nearest valid: window.size=3"):
        WindowConfig(size=4, first=2, last=5)

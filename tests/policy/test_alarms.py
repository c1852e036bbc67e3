from idgrpo.policy.alarms import alarm_figures, alarms


def row(reward=0.0, **more):
    return {"reward_mean": reward, "reward_std": 0.5, "grad_rms": 1e-3, "adam_eps": 1e-8, "passes": 1.0} | more


def test_a_healthy_run_is_quiet():
    assert alarms([row(0.01 * i) for i in range(40)]) == []
    assert alarms([]) == []


def test_flat_reward_needs_thirty_updates():
    assert alarms([row() for _ in range(29)]) == []
    assert "flat" in alarms([row() for _ in range(30)])[0]


def test_single_figures():
    assert "ratio is off" in alarms([row(log_ratio_max=0.01)])[0]
    assert alarms([row(log_ratio_max=0.01, passes=2.0)]) == []
    assert "no variance" in alarms([row(zero_variance_share=0.5)])[0]
    assert "rewards failed" in alarms([row(reward_failed_share=0.2)])[0]
    assert "clipped" in alarms([row(clip_share_low=0.6)])[0]
    assert "epsilon" in alarms([row(grad_rms=5e-9)])[0]


def test_hacking_is_reward_up_while_a_held_out_figure_falls():
    start, end = row(0.0, eval_identity=0.3, eval_sharpness=1.0), row(0.5, eval_identity=0.25, eval_sharpness=0.98)
    found = alarms([start, end])
    assert len(found) == 1 and "held-out identity falls" in found[0]
    assert alarms([row(0.5, eval_identity=0.3), row(0.0, eval_identity=0.2)]) == []


def test_the_base_rated_before_the_first_update_is_the_reference():
    base, end = {"step": 0.0, "eval_identity": 0.3}, row(0.5, eval_identity=0.25)
    assert "0.300 -> 0.250" in alarms([base, row(0.0), end])[0]
    assert alarms([base, row(0.6), end]) == []  # the reward did not rise
    assert alarms([base, end]) == []


def test_a_slow_drift_is_held_against_the_first_evaluation_however_long_ago():
    history = [{"eval_identity": 0.3}]
    for update in range(1, 201):
        rated = {"eval_identity": 0.3 - 0.0001 * update} if update % 20 == 0 else {}
        history.append(row(0.01 * update) | rated)
    assert "0.300 -> 0.280" in alarm_figures(history)["alarms"]

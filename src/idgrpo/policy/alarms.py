"""Alarms for the traps of RL on flow models: plain rules over the metrics of a run."""

import logging
from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)

Figures = Mapping[str, float]
FLAT_UPDATES = 30


def alarms(history: Sequence[Figures]) -> list[str]:
    """Name what looks wrong in the metrics so far (oldest first); empty means nothing does.

    The whole run is needed, not its end: a slow drift is only seen against the first evaluation. Rules: ratio off 1 on
    policy, by more than the base's arithmetic explains; half of the groups without variance; rewards failing; reward flat over 30 updates; most pairs clipped; gradient below Adam's epsilon; reward up while held-out identity, motion or sharpness falls (hacking);
    preferred clips made less likely (DPO).
    """
    if not history:
        return []
    now = history[-1]
    found = []
    on_policy = now.get("passes", 1) == 1 and not now.get("rollout_decay")
    if on_policy and abs(now.get("log_ratio_max", 0.0)) > max(5e-4, now.get("ratio_tolerance", 0.0)):
        found.append(
            f"ratio is off 1 on policy (largest |log ratio| {now['log_ratio_max']:.2g}): rollout and replay differ"
        )
    if now.get("zero_variance_share", 0.0) >= 0.5:
        found.append(
            f"{now['zero_variance_share']:.0%} of the groups have no variance in reward: nothing to learn from them"
        )
    if now.get("reward_failed_share", 0.0) > 0.1:
        found.append(f"{now['reward_failed_share']:.0%} of the rewards failed")
    if max(now.get("clip_share_high", 0.0), now.get("clip_share_low", 0.0)) > 0.5:
        found.append("more than half of the pairs are clipped: lower optimizer.lr or loss.num_passes")
    if 0 < now.get("grad_rms", 1.0) < 10 * now.get("adam_eps", 0.0):
        found.append(
            f"gradient rms {now['grad_rms']:.1e} is within 10x of Adam's epsilon {now['adam_eps']:.0e}: "
            "lower optimizer.eps, or steps shrink"
        )
    found += _flat_reward(history) + _hacking(history) + _unlearned(history)
    return found


def alarm_figures(history: Sequence[Mapping[str, float | str]]) -> dict[str, str]:
    """Warn of what looks wrong in a run so far, and give it as a figure of its newest update."""
    found = alarms([{k: v for k, v in row.items() if isinstance(v, (int, float))} for row in history])
    for alarm in found:
        log.warning("%s", alarm)
    return {"alarms": "; ".join(found)} if found else {}


def _flat_reward(history: Sequence[Figures]) -> list[str]:
    if len(history) < FLAT_UPDATES:
        return []
    window = [row["reward_mean"] for row in history[-FLAT_UPDATES:] if "reward_mean" in row]
    spread = [row["reward_std"] for row in history[-FLAT_UPDATES:] if "reward_std" in row]
    if len(window) < FLAT_UPDATES or not spread:
        return []
    third = FLAT_UPDATES // 3
    rise = sum(window[-third:]) / third - sum(window[:third]) / third
    noise = sum(spread) / len(spread)
    if abs(rise) < 0.02 * noise:
        return [f"reward is flat over {FLAT_UPDATES} updates (rise {rise:.2g}, spread in a group {noise:.2g})"]
    return []


def _unlearned(history: Sequence[Figures]) -> list[str]:
    """DPO can widen the lead of the better clips by making both sides less likely, the worse ones faster."""
    recent = [row["gain_better"] for row in history[-FLAT_UPDATES:] if "gain_better" in row]
    if len(recent) < FLAT_UPDATES or sum(recent) >= 0:
        return []
    return [
        f"the better clips of the preferences are less likely than under the reference (log density {sum(recent) / len(recent):.2g} "
        f"over {FLAT_UPDATES} updates): raise dpo.beta or lower optimizer.lr"
    ]


def _hacking(history: Sequence[Figures]) -> list[str]:
    """Hold the newest evaluation against the first of the run, which is the base's own where it is rated before update 1."""
    rated = [place for place, row in enumerate(history) if any(key.startswith("eval_") for key in row)]
    if len(rated) < 2:
        return []
    first, last = history[rated[0]], history[rated[-1]]
    # A base that was only rated has no training reward; the first update still rolled it out.
    earned = next((row["reward_mean"] for row in history[rated[0] :] if "reward_mean" in row), None)
    if earned is None or last.get("reward_mean", earned) <= earned:
        return []
    found = []
    for name, share in (
        ("identity", 0.02),
        ("worst", 0.02),
        ("dynamic_degree", 0.1),
        ("motion", 0.1),
        ("sharpness", 0.1),
    ):
        key = f"eval_{name}"
        if key in first and key in last and last[key] < first[key] * (1 - share):
            found.append(
                f"reward rises while held-out {name} falls ({first[key]:.3f} -> {last[key]:.3f}): reward hacking"
            )
    return found

"""What the keys of a policy's metrics.jsonl mean; a name in <> stands for what a run fills in. Imports no torch."""

import re

POLICY_KEYS = {
    "step": "updates done when the line was written; 0: the base, rated before the first update",
    "reward_mean": "mean reward of the update's samples, all rewards combined by their weights (before `reward.normalise`)",
    "reward_std": "standard deviation of the reward inside a group, mean over groups",
    "reward_min": "lowest reward",
    "reward_max": "highest reward",
    "reward_<name>_mean": "the same of one reward, where there are several; also _std, _min, _max",
    "reward_<name>_std": "see reward_<name>_mean",
    "reward_<name>_failed_share": "share of samples without this reward, where there are several",
    "reward_<name>_min": "see reward_<name>_mean",
    "reward_<name>_max": "see reward_<name>_mean",
    "reward_failed_share": "share of samples without a reward",
    "group_size_min": "samples with a reward in the smallest group",
    "group_size_max": "samples with a reward in the largest group",
    "advantage_abs_mean": "mean absolute advantage of the trained samples",
    "advantage_clamped_share": "share of advantages cut at `advantage.clamp`",
    "advantage_explained_share": "share of the advantages' variance that the controls explain, and that is taken out",
    "zero_variance_share": "share of groups in which all rewards are equal",
    "groups_dropped": "groups with too few rewards",
    "samples_trained": "samples that the loss saw",
    "drift_<control>": "mean log ratio of a control between the policy's and the base's clips of the same noise (`advantage.hold`)",
    "window": "indices of the stochastic steps of this update",
    "epoch": "SFT and DPO: passes over the clips (preferences) that are complete",
    "matching_error": "SFT and DPO: mean squared flow-matching error",
    "preference_loss": "DPO: mean pair loss; ln 2 = 0.693 where policy and reference are equal (bradley_terry)",
    "preference_accuracy": "DPO: share of decided preferences whose better clip has the higher implicit score; equal ones count half",
    "preference_lead": "DPO: mean lead of the better clip's implicit score",
    "gain_better": "DPO: mean log density that the better clips gained over the reference; below 0: they became less likely",
    "gain_worse": "DPO: the same of the worse clips",
    "ratio_mean": "mean likelihood ratio of new and old policy; 1 on policy",
    "ratio_min": "smallest ratio",
    "ratio_max": "largest ratio",
    "log_ratio_max": "largest absolute log ratio; a bf16 base rounds a rollout and its replay apart, which enters no loss",
    "ratio_tolerance": "what the base's arithmetic allows `log_ratio_max` to be on policy (`loss.ratio_tolerance`)",
    "log_ratio_step<step>": "largest absolute log ratio of one denoising step",
    "mean_shift": "rms shift of the step's mean, in standard deviations of the step",
    "clip_share_high": "share of pairs cut at the upper side of the loss",
    "clip_share_low": "share of pairs cut at the lower side of the loss",
    "kl": "distance to the reference policy, in units of the step's noise",
    "loss_policy": "mean policy loss",
    "grad_norm": "norm of the gradient before it is cut",
    "grad_rms": "root mean square of the gradient's elements; compare with adam_eps",
    "adam_eps": "epsilon of AdamW (`optimizer.eps`)",
    "lr": "learning rate of this update",
    "passes": "optimizer steps of an update (`loss.num_passes`)",
    "rollout_decay": "decay of the slow average that draws the clips (`rollout.decay`); ratios are then off 1",
    "skipped_steps": "updates without a step so far, because no group had differences in reward",
    "alarms": "what looks wrong in the run so far; left out when nothing does",
    "samples_per_second": "samples of all ranks by wall-clock time",
    "cpu_seconds": "CPU time of this rank in the update, in seconds",
    "gpu_peak_gib": "peak GPU memory of this rank so far, in GiB",
    "seconds_<phase>": "wall-clock seconds of a phase: condition, rollout, decode, reward, sync, hold, update, preview, eval",
    "eval_<measure>": "measure on the held-out cases (`evaluation.every`), by the published weights",
}  # fmt: skip


def meaning(key: str) -> str | None:
    """Give what a key of a policy run means; None for an unknown one."""
    if key in POLICY_KEYS:
        return POLICY_KEYS[key]
    for name, text in POLICY_KEYS.items():
        if "<" in name and re.fullmatch(re.sub(r"<\w+>", r"\\w+", name), key):
            return text
    return None

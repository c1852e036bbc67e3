"""Reads preferences and a vision-language checkpoint; writes a reward model.
The reward model reads videos, references and prompts; it writes one score per video, or a failure, never a made-up number."""

LOSSES = {
    "rao_kupper": "idgrpo.reward.losses:rao_kupper",
    "davidson": "idgrpo.reward.losses:davidson",
    "bradley_terry": "idgrpo.reward.losses:bradley_terry",
    "margin": "idgrpo.reward.losses:margin",
}

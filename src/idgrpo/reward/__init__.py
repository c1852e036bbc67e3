"""Reads preferences and a vision-language checkpoint; writes a reward model.
The reward model reads videos, references and prompts; it writes one score per video, or a failure, never a made-up number."""

LOSSES = {
    "rao_kupper": "idgrpo.reward.losses:rao_kupper",
    "davidson": "idgrpo.reward.losses:davidson",
    "bradley_terry": "idgrpo.reward.losses:bradley_terry",
    "margin": "idgrpo.reward.losses:margin",
}

METRIC_KEYS = {
    "step": "updates done",
    "loss": "mean pair loss since the line before",
    "grad_norm": "norm of the gradient before it is cut",
    "learning_rate": "learning rate",
}
"""What the keys of a reward model's metrics.jsonl mean."""

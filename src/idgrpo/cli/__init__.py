"""The command line: one thin file a command: parse, call one stage, print.

Reads arguments; writes one result to stdout, everything else to stderr.
"""

COMMANDS: dict[str, tuple[str, str]] = {
    "cases": ("idgrpo.cli.cases:command", "Publish cases: people and prompts of yours, or of the embedded world."),
    "annotate": (
        "idgrpo.cli.annotate:command",
        "Collect preferences: people in a web page, models, or simulated annotators.",
    ),
    "distort": ("idgrpo.cli.distort:command", "Damage identity in known ways: clean clips -> labelled pairs."),
    "train-rm": ("idgrpo.cli.train_rm:command", "Train a reward model on preferences."),
    "train-policy": (
        "idgrpo.cli.train_policy:command",
        "Tune a base: GRPO with a reward, SFT on good clips, DPO on preferences.",
    ),
    "sample": ("idgrpo.cli.sample:command", "Make videos with a base, tuned or not."),
    "eval": ("idgrpo.cli.eval:command", "Measure identity, compare with the base, write a report."),
    "artifacts": ("idgrpo.cli.artifacts:command", "List, explain, check, tag, export and prune artifacts."),
    "config": ("idgrpo.cli.config:command", "Show and check the configuration of a stage."),
    "plugins": ("idgrpo.cli.plugins:command", "List what other installed packages bring."),
    "doctor": ("idgrpo.cli.doctor:command", "Check machine, libraries, codecs and weights."),
    "study": ("idgrpo.cli.study:command", "Run a grid of settings with several seeds; one table with intervals."),
    "demo": ("idgrpo.cli.demo:command", "Run the whole loop on the embedded world."),
}

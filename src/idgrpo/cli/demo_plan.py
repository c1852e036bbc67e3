"""How large the demo is, and the command line of each of its steps."""

from dataclasses import dataclass, replace

from idgrpo.policy.recipes import recipe

BASES = ("tiny-phantom", "tiny-vace")
MIN_STRENGTH = 0.5
TIE_MARGIN = 0.02  # oracle's difference below which nobody sees one


@dataclass(frozen=True)
class Scale:
    """Numbers of everything."""

    train_cases: int
    samples_per_case: int
    true_clips: int
    distortions_per_clip: int
    test_cases: int
    test_samples_per_case: int
    share_of_updates: float  # of those that the recipe of a base takes: bases then train about as long
    eval_cases: int

    def updates_of(self, base: str) -> int:
        return round(self.share_of_updates * recipe("default", base).num_updates)


FULL = Scale(160, 3, 300, 4, 64, 3, 0.4, 64)
EVIDENCE = replace(FULL, share_of_updates=1, eval_cases=128)
QUICK = Scale(16, 2, 40, 3, 12, 2, 0.025, 8)


def sample(base: str, cases: str, per_case: int, seed: int, name: str, policy: str | None = None) -> list[str]:
    """Make videos."""
    tuned = ["--policy", policy] if policy else []
    return [
        "sample",
        "--base",
        base,
        "--cases",
        cases,
        "--num-per-case",
        str(per_case),
        "--seed",
        str(seed),
        "--name",
        name,
        *tuned,
    ]


def distort(samples: str, per_video: int, name: str) -> list[str]:
    """Damage identity in true clips, by amounts that can be seen at 32 pixels."""
    return [
        "distort",
        "--data",
        samples,
        "--per-video",
        str(per_video),
        "--name",
        name,
        "--set",
        f"strength.low={MIN_STRENGTH}",
    ]


def annotate(samples: list[str], name: str) -> list[str]:
    """Let three simulated annotators, who err and see ties, vote on pairs of generated clips."""
    given = [part for ref in samples for part in ("--samples", ref)]
    return ["annotate", *given, "--by", "oracle", "--name", name, "--set", "pairs.per_case=8"]


def train_rm(preferences: list[str]) -> list[str]:
    """Train the reward model on both kinds of preferences, the people read in every order."""
    given = [part for ref in preferences for part in ("--data", ref)]
    return ["train-rm", *given, "--name", "demo", "--set", "inputs.reference_order=average"]


def train_policy(base: str, cases: str, reward: str, updates: int, seed: int) -> list[str]:
    """Tune one base."""
    given = ["--base", base, "--cases", cases, "--rm", reward, "--updates", str(updates), "--seed", str(seed)]
    return ["train-policy", *given, "--name", f"{base}-seed{seed}"]


def evaluate(base: str, tuned: str, reward: str, name: str) -> list[str]:
    """Measure base and tuned on the same cases and seeds."""
    return ["eval", "--samples", f"base={base}", "--samples", f"tuned={tuned}", "--reward", reward, "--name", name]

"""Rewards by name: what `NAME=SOURCE*WEIGHT` means, where each source is, and what scores by it.

A source is a reward model (artifact, reference, folder), a service (`http://..`), a function (`package.module:callable`, or
the name of an installed one), or a measure of the report. The same sources serve training, `eval` and judges.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from idgrpo.errors import UsageError
from idgrpo.stages.source import Given, Source, find
from idgrpo.store import KINDS
from idgrpo.store.store import Store

if TYPE_CHECKING:
    from idgrpo.reward.client import RewardClient
    from idgrpo.reward.score import Scores

NAMED = re.compile(r"(?P<name>[A-Za-z]\w*)=(?P<source>.+)")
WEIGHTED = re.compile(r"(?P<source>.+)\*(?P<weight>[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?)")
LIKE_A_WEIGHT = re.compile(r".*\*(?P<weight>[^*/]*)")
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
SCHEMES = ("http://", "https://")


@dataclass(frozen=True)
class RewardSource:
    """One reward: where its scores come from, and what decides them (`pin`)."""

    name: str
    kind: Literal["model", "service", "function", "measure"]
    text: str
    source: Source | None = None
    client: "RewardClient | None" = None
    pin: str = ""

    def load(self, device: str = "cpu", *, finder: str | None = None) -> "Scores":
        """Make what scores; a measure finds people with `finder`."""
        from idgrpo.reward.functions import FunctionReward
        from idgrpo.reward.score import RewardModel

        if self.client is not None:
            return self.client
        if self.source is not None:
            return RewardModel.load(self.source.path, device=device)
        if self.kind == "function":
            return FunctionReward.load(self.text, device)
        from idgrpo.policy.measured import MeasureScores

        if finder is None:
            raise UsageError(
                f"the measure {self.text} needs somebody who finds people", fix="--set judge.finder=facenet"
            )
        return MeasureScores(self.text, finder, device)


def parse_rewards(texts: Sequence[str]) -> dict[str, Any]:
    """Read `NAME=SOURCE[*WEIGHT]` texts into settings: `reward.sources.NAME`, `reward.weights.NAME`.

    A measure or an installed reward needs no NAME: it goes by its own.
    """
    found: dict[str, Any] = {}
    for text in texts:
        weighted = WEIGHTED.fullmatch(text)
        if not weighted and (wrong := LIKE_A_WEIGHT.fullmatch(text)):
            raise UsageError(
                f"--reward {text}: the weight {wrong['weight']!r} is no finite number", fix="NAME=SOURCE*0.5, say"
            )
        rest = weighted["source"] if weighted else text
        match = NAMED.fullmatch(rest)
        name, source = (match["name"], match["source"]) if match else (rest, rest)
        if not match and re.fullmatch(r"[^=:/]*=.*", rest):
            raise UsageError(
                f"--reward {text}: {rest.partition('=')[0]!r} is no name",
                fix="a name is a letter, then letters, digits and _",
            )
        if not match and not re.fullmatch(r"[A-Za-z]\w*", rest):
            raise UsageError(f"--reward {text} has no name", fix=f"--reward NAME={text}")
        if f"reward.sources.{name}" in found:
            raise UsageError(
                f"two rewards are called {name!r}", fix="give each a name of its own: --reward NAME=SOURCE"
            )
        found[f"reward.sources.{name}"] = source
        if weighted:
            found[f"reward.weights.{name}"] = float(weighted["weight"])
    return found


def named_rewards(texts: Sequence[str]) -> dict[str, str]:
    """Split `NAME=SOURCE` texts; one without a name is called "reward". UsageError for a name twice."""
    found: dict[str, str] = {}
    for text in texts:
        match = NAMED.fullmatch(text) if not text.startswith(SCHEMES) else None
        name, source = (match["name"], match["source"]) if match else ("reward", text)
        if name in found:
            raise UsageError(f"two rewards are called {name!r}", fix="give names: --reward a=SOURCE --reward b=SOURCE")
        found[name] = source
    return found


def find_rewards(store: Store, sources: Mapping[str, Given]) -> list[RewardSource]:
    """Find rewards by their sources; see `find_reward`."""
    return [find_reward(store, name, given) for name, given in sources.items()]


def find_reward(store: Store, name: str, given: Given) -> RewardSource:
    """Find one reward and pin what decides its scores.

    Raises UsageError, DataError or ArtifactError for a source that is none, MachineError for a service that does not answer.
    """
    from idgrpo.evaluate.measure import is_measure, known_measures, load_measure
    from idgrpo.reward.functions import REWARDS, digest_of

    text = given if isinstance(given, str) else ""
    if text.startswith(SCHEMES):
        from idgrpo.reward.client import RewardClient

        client = RewardClient(text)
        return RewardSource(name, "service", text, client=client, pin=str(client.health()["model"]))
    if is_measure(text):
        load_measure(text)
        target = known_measures().get(text)
        return RewardSource(name, "measure", text, pin=digest_of(text) if target is None else target)
    target = REWARDS.get(text, text)
    if is_function(target):
        return RewardSource(name, "function", target, pin=digest_of(target))
    if text and not _is_model(text):
        known = ", ".join([*REWARDS, *known_measures()])
        raise UsageError(
            f"reward {name}: {text!r} is no reward model, service, function or measure",
            fix=f"rm, a folder, http://.., package.module:callable, or one of {known}",
        )
    source = find(store, "rm", given)
    return RewardSource(name, "model", source.ref, source=source, pin=source.digest)


def check_rewards(rewards: Sequence[RewardSource], weights: Mapping[str, float], *, more: Collection[str] = ()) -> None:
    """Refuse what cannot be trained on: two rewards of one name, weights of none, a measure driven the wrong way.

    more: names of rewards that are not there yet. Raises UsageError.
    """
    from idgrpo.evaluate.measure import load_measure
    from idgrpo.policy.scoring import check_weights

    names = [reward.name for reward in rewards]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"two rewards are called {twice[0]!r}", fix="give each a name of its own: --reward NAME=SOURCE"
        )
    check_weights(weights, [*names, *more])
    for one in rewards:
        if one.kind == "measure" and one.name not in weights and load_measure(one.text).info.better == "lower":
            raise UsageError(
                f"of the measure {one.name} lower is better: as a reward it would be driven up",
                fix=f"--set reward.weights.{one.name}=-1",
            )


def find_model(store: Store, given: Given) -> RewardSource:
    """Find what `--rm` names, called rm: like any reward, but no measure. Raises UsageError for one."""
    found = find_reward(store, "rm", given)
    if found.kind == "measure":
        raise UsageError(f"--rm {found.text}: a measure is no reward model", fix=f"--reward {found.text}")
    return found


def is_function(text: str) -> bool:
    """Tell whether a text is an import string; `rm:best` is a tag of the store."""
    return bool(FUNCTION.fullmatch(text)) and text.partition(":")[0] not in KINDS and not Path(text).exists()


def _is_model(text: str) -> bool:
    """Tell whether a text can name a reward model: a reference, or a path."""
    head = re.split(r"[@:/]", text)[0]
    return head in KINDS or "/" in text or Path(text).exists()

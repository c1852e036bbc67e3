"""The `train-rm` stage: preferences -> a reward model."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idgrpo.errors import DataError
from idgrpo.stages.settings import Settings, settle
from idgrpo.stages.source import Given, Source, find, listed
from idgrpo.stages.work import Plan, Run, Stage, Work, tell
from idgrpo.store.artifact import Artifact
from idgrpo.store.store import Store

if TYPE_CHECKING:
    from idgrpo.records.jsonl import RejectedLine
    from idgrpo.records.models import Preference
    from idgrpo.reward.config import RewardModelConfig
    from idgrpo.reward.score import RewardModel

SHOWN_LINES = 20


@Stage
def train_rm(
    preferences: Given | Sequence[Given] = None,
    *,
    settings: Settings = None,
    skip_invalid: bool = False,
    name: str | None = None,
    store: Store | None = None,
    force: bool = False,
    resume: bool = False,
) -> Work:
    """Train a reward model and measure how often it agrees with held-out preferences.

    Args:
        preferences: one or several artifacts or `prefs.jsonl` files, which are joined; None means the newest.
        settings: a RewardModelConfig, or dotted keys such as {"vlm": "tiny-vlm", "inputs.reference_order": "average"}.
        skip_invalid: put invalid lines aside (`<file>.rejects.jsonl`) and go on, instead of stopping.
    """
    # transformers imports DeepSpeed where it is installed, which otherwise announces its guess on stdout.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if Path("/dev/nvidiactl").exists() else "cpu")
    from idgrpo.reward.checkpoint import checkpoint_digest, find_vlm
    from idgrpo.reward.config import RewardModelConfig
    from idgrpo.reward.train import resolve_vlm

    store = store or Store.default()
    settled = settle(RewardModelConfig, settings)
    sources = [find(store, "preferences", one) for one in listed(preferences)]
    pairs, rejected = _read(sources, skip_invalid)
    settled = settled.model_copy(update={"vlm": resolve_vlm(pairs, settled)})
    folder = find_vlm(str(settled.vlm))
    resolved = {**settled.model_dump(mode="json"), "vlm_digest": checkpoint_digest(folder)}
    name = name or "rm"

    def make(run: Run) -> None:
        for source, lines in rejected if run.publishes else ():
            _put_aside(lines, _aside(store, source))
        _make(run, store, settled, pairs, sum(len(lines) for _, lines in rejected))

    inputs = {f"preferences{index or ''}": source for index, source in enumerate(sources)}
    return Work(
        store, "train-rm", "rm", name, inputs, resolved, make,
        lambda: _plan(store, settled, folder, sources, len(pairs), name, resolved), forget=_forget, force=force, resume=resume,
        ranks="together",
    )  # fmt: skip


def load_reward_model(given: Given = None, *, device: str | None = None, store: Store | None = None) -> "RewardModel":
    """Load a reward model, ready for `score`: the newest of the store, or the one that is given (also a folder)."""
    from idgrpo.bases.inventory import default_device
    from idgrpo.reward.score import RewardModel

    return RewardModel.load(find(store or Store.default(), "rm", given).path, device=device or default_device())


def _read(
    sources: Sequence[Source], skip_invalid: bool
) -> "tuple[list[Preference], list[tuple[Source, list[RejectedLine]]]]":
    """Read every pair with its media checked; what is wrong is named by file and line, or given back to be put aside."""
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.models import Preference
    from idgrpo.reward.check import DataCheck

    found: list[Preference] = []
    aside: list[tuple[Source, list[RejectedLine]]] = []
    check = DataCheck()
    for source in sources:
        path = source.records
        rejected: list[RejectedLine] = []
        found += read_records(
            path,
            Preference,
            unique="pair_id",
            skip_invalid=rejected.append if skip_invalid else None,
            check=check.of(path),
        )
        if rejected:
            aside.append((source, rejected))
            for line in rejected[:SHOWN_LINES]:
                tell(f"{line.path}:{line.line}: {line.reason}")
            tell(f"{len(rejected)} invalid lines of {path} are left out")
    if not found:
        raise DataError(f"no preferences in {', '.join(source.ref for source in sources)}")
    return found, aside


def _aside(store: Store, source: Source) -> Path:
    # Artifacts are immutable: what is refused of one goes to the store's runs.
    if source.artifact is None:
        return source.records.with_suffix(".rejects.jsonl")
    return store.run_dir("rejects") / f"{source.ref.replace('/', '-')}.rejects.jsonl"


def _put_aside(rejected: "list[RejectedLine]", aside: Path) -> None:
    aside.parent.mkdir(parents=True, exist_ok=True)
    aside.write_text("".join(line.text + "\n" for line in rejected), encoding="utf-8")
    tell(f"the invalid lines of {rejected[0].path} are in {aside}")


def _make(run: Run, store: Store, settings: "RewardModelConfig", pairs: "list[Preference]", num_rejected: int) -> None:
    from idgrpo.reward.table import accuracy_lines, draw_card, flat_metrics
    from idgrpo.reward.train import train

    cache = store.root / "cache" / "features"
    if not run.publishes:  # the first rank publishes
        train(pairs, settings, run.folder, run.path)
        return
    out = run.out.path
    card = train(pairs, settings, run.folder, out, cache=cache, num_rejected=num_rejected)
    draw_card(card, out / "card.png")
    (out / "accuracy.txt").write_text("\n".join(accuracy_lines(card)) + "\n", encoding="utf-8")
    run.out.metrics.update(flat_metrics(card))
    if card["at_chance"]:
        tell(
            "warning: on held-out pairs the model is not above chance; collect more or clearer preferences. Who asks for the "
            "newest gets an older one that is above chance, if there is one"
        )
    run.out.timed.add("metrics.jsonl")


def _forget(folder: Any) -> None:
    from idgrpo.reward.train import forget_work

    forget_work(folder)


def _plan(
    store: Store,
    settings: "RewardModelConfig",
    folder: Path,
    sources: Sequence[Source],
    num_pairs: int,
    name: str,
    resolved: dict[str, Any],
) -> Plan:
    from idgrpo.reward.resolve import memory_bytes, resolve, setting_lines

    shown = resolve(settings, folder)
    memory = memory_bytes(shown, folder)
    resolved = {**shown.model_dump(mode="json"), "vlm_digest": resolved["vlm_digest"]}
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    would_read = [*(source.ref for source in sources), resolved["vlm"]]
    summary = [
        f"reads   {', '.join(would_read)}: {num_pairs} pairs",
        f"writes  rm/{name} in {store.root}",
        f"needs   about {weights / 2**20:.0f} MiB on disk and {memory / 2**20:.0f} MiB of memory, without activations",
        *setting_lines(shown),
        *(f"{key} = {value}" for key, value in resolved.items()),
    ]
    document = {
        "would_read": would_read,
        "would_write": f"rm/{name}",
        "num_pairs": num_pairs,
        "disk_bytes": weights,
        "memory_bytes": memory,
        "config": resolved,
    }
    return Plan(summary, document)


def setting_lines(work: Work) -> list[str]:
    """Tell the settings that follow from the checkpoint, before hours of work begin."""
    from idgrpo.reward.checkpoint import find_vlm
    from idgrpo.reward.config import RewardModelConfig
    from idgrpo.reward.resolve import resolve
    from idgrpo.reward.resolve import setting_lines as lines

    settings = RewardModelConfig.model_validate(
        {key: value for key, value in work.config.items() if key != "vlm_digest"}
    )
    return lines(resolve(settings, find_vlm(str(settings.vlm))))


def result(artifact: Artifact) -> Plan:
    """Tell the accuracy on held-out people, and what the model was trained on."""
    from idgrpo.reward.model import load_card
    from idgrpo.reward.table import accuracy_lines, measured_on

    card = load_card(artifact.path)
    part = measured_on(card)
    rejected = f", {card['num_rejected']} invalid lines left out" if "num_rejected" in card else ""
    copies = f", {card['num_copies']} clips against their photos among them" if card["num_copies"] else ""
    people = f", {card['num_person_pairs']} about one person alone" if card.get("num_person_pairs") else ""
    pairs = f"{card['num_training_pairs']} pairs{copies}{people}{rejected}"
    document = {
        "artifact": artifact.ref,
        "digest": artifact.digest,
        "path": str(artifact.path),
        "rm_accuracy_decided": card[part]["accuracy_decided"],
        "rm_accuracy_with_ties": card[part]["accuracy_with_ties"],
        "rm_measured_on": part,
        "card": card,
    }
    return Plan(
        [f"reward model {artifact.ref} ({card['mode']} on {card['vlm']}, {pairs})", *accuracy_lines(card)], document
    )

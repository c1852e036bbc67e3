"""Cases of the embedded world for a store that has none, so that `idgrpo sample --base tiny-phantom` works alone."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idgrpo.store.artifact import Artifact
    from idgrpo.store.store import Store

NUM_CASES = 8


def publish_tiny_cases(shelf: "Store", seed: int, *, num: int = NUM_CASES, split: str = "train") -> "Artifact":
    """Publish a small cases artifact: portraits as PNG, cases.jsonl. The same seed gives the artifact that exists."""
    from idgrpo.tinyworld.cases import make_cases, write_cases

    config = {"world": "tinyworld", "num": num, "seed": seed, "split": split}
    found = shelf.find("cases", "tinyworld", inputs={}, config=config)
    if found is not None:
        return found
    with shelf.publish("cases", "tinyworld", inputs={}, config=config) as draft:
        written = write_cases(draft.path, make_cases(num, seed, split))
        draft.metrics.update({"num_cases": len(written)})
    return draft.artifact

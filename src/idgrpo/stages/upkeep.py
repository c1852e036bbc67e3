"""What is in the store: room made in it, and manifests laid flat for people."""

from idgrpo.run.flatten import flatten
from idgrpo.store.prune import Pruned, plan, prune
from idgrpo.store.store import Store

__all__ = ["flatten", "prune_store"]


def prune_store(store: Store, kind: str | None = None, *, keep: int = 1, dry_run: bool = False) -> Pruned:
    """Remove all but the newest `keep` versions of each name, or only say which; lineage, tags and running work stay whole."""
    return (plan if dry_run else prune)(store, kind, keep=keep)

"""What is in the store: room made in it, and manifests laid flat for people."""

from collections.abc import Iterable, Iterator

from idgrpo.errors import ArtifactError
from idgrpo.run.flatten import flatten
from idgrpo.store.artifact import Artifact
from idgrpo.store.prune import Pruned, plan, prune
from idgrpo.store.store import Store

__all__ = ["flatten", "prune_store", "whole"]


def whole(artifacts: Iterable[Artifact], *, every_byte: bool = False) -> Iterator[Artifact]:
    """Give those that are still there when their turn comes: a prune may run meanwhile.

    Errors: ArtifactError for the first that is damaged: its manifest, or with `every_byte` any of its files.
    """
    for artifact in artifacts:
        try:
            artifact.verify() if every_byte else artifact.manifest
        except ArtifactError:
            if artifact.path.is_dir():
                raise
            continue
        yield artifact


def prune_store(store: Store, kind: str | None = None, *, keep: int = 1, dry_run: bool = False) -> Pruned:
    """Remove all but the newest `keep` versions of each name, or only say which; lineage, tags and running work stay whole."""
    return (plan if dry_run else prune)(store, kind, keep=keep)

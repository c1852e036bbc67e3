"""One piece of work: find what was made from these inputs with these settings, else make it, and publish it.

The same for all stages: the run's folder is named after the digests of all inputs and settings, so a changed input is
another run, never a resumed one; what is killed goes on from its folder; what is published is immutable.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial, update_wrapper
from inspect import signature
from pathlib import Path
from typing import Any, Generic, Literal, ParamSpec, Protocol, TypeVar

from idgrpo.errors import ArtifactError, BusyError, DataError, UsageError
from idgrpo.run.dealing import Dealing, RunClosedError
from idgrpo.run.distributed import World, join_world, rank_device, world_from_environment
from idgrpo.run.folder import RunFolder
from idgrpo.run.progress import tell
from idgrpo.stages.source import RECORD_FILES, Source, find
from idgrpo.store.artifact import Artifact
from idgrpo.store.draft import Draft, remove_abandoned
from idgrpo.store.manifest import InputEntry, canonical
from idgrpo.store.prune import choosing, refs_named_in
from idgrpo.store.store import Store, check_name

WAIT_S = 0.5
"""How often a process that helped looks whether the result is published."""


@dataclass(frozen=True)
class Plan:
    """What a stage would do: lines for people, and a document for programs."""

    summary: list[str]
    document: dict[str, Any]


class Task(Protocol):
    """What preparing a stage gives: it tells what it would do, or does it."""

    def plan(self) -> Plan: ...

    def is_done(self) -> bool: ...

    def run(self) -> Artifact: ...


P = ParamSpec("P")
T = TypeVar("T", bound=Task)


class Stage(Generic[P, T]):
    """A stage as a function: a call gives its artifact, made now or found; `prepare` takes the same and only checks it."""

    def __init__(self, prepare: Callable[P, T]):
        self.prepare = prepare
        update_wrapper(self, prepare)
        self.__signature__ = signature(prepare).replace(return_annotation=Artifact)

    def __call__(self, *given: P.args, **named: P.kwargs) -> Artifact:
        return self.prepare(*given, **named).run()


@dataclass
class Run:
    """A piece of work under way: its folder, the ranks, the items, and how to begin the artifact (in one process only)."""

    folder: RunFolder
    world: World
    dealing: Dealing
    begin: Callable[[], Draft] | None = None
    draft: Draft | None = None

    @property
    def path(self) -> Path:
        return self.folder.path

    def device(self, asked: str | None = None) -> str:
        """Give what this rank computes on; None asks for the GPU if there is one, and "cuda" is a rank's own GPU."""
        from idgrpo.bases.inventory import default_device

        return rank_device(asked or default_device(), self.world)

    @property
    def publishes(self) -> bool:
        """Tell whether this process writes the result."""
        return self.begin is not None

    @property
    def out(self) -> Draft:
        """The artifact being built, begun when it is first asked for."""
        assert self.begin is not None, "only the main rank publishes"
        if self.draft is None:
            self.draft = self.begin()
        return self.draft


def _remove(folder: RunFolder) -> None:
    folder.remove()


@dataclass(frozen=True)
class Work:
    """A stage with its inputs found and its settings checked: `plan` tells what it would do, `run` does it.

    Attributes:
        stage: name of the stage, for the run's folder.
        config: all settings that decide the result, with their defaults filled in.
        make: does the work in the run's folder and writes the result into the draft.
        ranks: which ranks call `make`: the main "one", while the others wait; all, and they "deal" items out (`Run.dealing`);
            or all, and they compute "together" by collectives.
        share: deal items out to every process that makes the same call, ranks of one job or not.
        plan: tells what would be done, without doing it.
        run_config: settings of `config` as they make two runs the same, by their first keys: without those that a run can be
            given anew while it goes on, such as its length.
        pins: what else decides the result but is missing or dear in a plan, such as the digest of a base's weights.
        forget: removes from the run's folder what a published run needs no more.
        force: make it anew; what an unfinished run left is thrown away unless `resume` is set too.
        device: what it computes on: ranks on CPUs talk otherwise than ranks on GPUs.
        reuse: give back an artifact of the same inputs and settings instead of making it again.
    """

    store: Store
    stage: str
    kind: str
    name: str
    inputs: Mapping[str, Source]
    config: Mapping[str, Any]
    make: Callable[[Run], None]
    plan: Callable[[], Plan]
    run_config: Mapping[str, Any] = field(default_factory=dict)
    pins: Callable[[], dict[str, Any]] = dict
    forget: Callable[[RunFolder], None] = _remove
    force: bool = False
    resume: bool = False
    device: str | None = None
    reuse: bool = True
    ranks: Literal["one", "deal", "together"] = "one"
    share: bool = False
    _settled: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.share and self.force:
            raise UsageError(
                "with --force each process would throw away what the others made",
                fix="--share alone, or another --name",
            )

    @property
    def settled(self) -> dict[str, Any]:
        """All that decides the result but the inputs: settings, pins, and media that records name outside the store."""
        if not self._settled:
            media = {key: source.media for key, source in self.inputs.items() if source.media is not None}
            self._settled.update({**self.config, **self.pins(), **({"media": media} if media else {})})
        return self._settled

    @property
    def entries(self) -> dict[str, InputEntry]:
        """What the manifest says of the inputs."""
        return {key: source.entry for key, source in self.inputs.items()}

    @property
    def folder(self) -> Path:
        """The run's folder: its name ends with a digest of everything that makes it this run."""
        digests = {key: source.digest for key, source in self.inputs.items()}
        config = {**self.settled, **self.run_config}
        mark = hashlib.sha256(canonical({"inputs": digests, "config": config}).encode()).hexdigest()[:12]
        return self.store.run_dir(f"{self.stage}-{self.name}-{mark}")

    def find(self) -> Artifact | None:
        """Give the artifact that was made from the same inputs with the same settings, if there is a whole one."""
        return self.store.find(self.kind, self.name, inputs=self.entries, config=self.settled)

    @contextmanager
    def locked(self) -> Iterator[RunFolder]:
        """Hold the run's folder. Raises BusyError when another process works in it."""
        inputs = {key: entry.model_dump() for key, entry in self.entries.items()}
        with ExitStack() as held:
            with choosing(self.store):
                folder = held.enter_context(RunFolder.open(self.folder, self._card(inputs)))
                for source in self.inputs.values():
                    if source.artifact is not None and not source.path.is_dir():
                        raise ArtifactError(
                            f"{source.ref} was removed from the store a moment ago",
                            fix="run again: what is newest then is taken",
                        )
            yield folder

    def _card(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Say what is read, for those who prune: also artifacts that the records of an input name."""
        with_records = (source for source in self.inputs.values() if source.kind in RECORD_FILES)
        named = {ref for source in with_records for ref in refs_named_in(source.records)}
        return {"inputs": inputs, "config": self.settled, "reads": sorted(named)}

    def is_done(self) -> bool:
        """Tell whether `run` would give what exists."""
        return self.reuse and not self.force and self.find() is not None

    def run(self) -> Artifact:
        """Give what exists, or make it; a run that was stopped or killed goes on.

        Every rank of a job calls this and gets the artifact. The main one holds the lock and publishes, and tells the
        others by a reference that it is done, by "" that they are to help.

        Raises:
            BusyError: another process makes the same thing, and it is not shared.
            StoppedError: a stop was asked for; the same call goes on.
        """
        world = World()
        if world_from_environment(dict(os.environ)).size > 1:
            world = join_world(self.device if self.ranks == "together" else "cpu")
        if world.is_main:
            made = self._main(world)
            self.store.gave(made)
            world.gather(made.ref)
            return made
        while not (ref := world.gather(None)[0]):
            self._help(world)
        return self.store.resolve(ref, kind=self.kind)

    def _main(self, world: World) -> Artifact:
        """Find it, or hold the run's folder and make it; where that is shared and held by another process, help that one."""
        if (found := self._found()) is not None:
            return found
        helped = False
        while True:
            try:
                return self._make(world)
            except BusyError:
                if not self.share:
                    raise
            if not helped and self._dealing(world).is_open():
                self._call_ranks(world)
                self._help(world)
                helped = True
            time.sleep(WAIT_S)
            if (found := self._found()) is not None:
                return found

    def _found(self) -> Artifact | None:
        found = self.find() if self.reuse and not self.force else None
        if found is not None:
            self._clean_up(found)
        return found

    def _call_ranks(self, world: World) -> None:
        """Ask the other ranks to make; the folder is ready for them."""
        if self.ranks != "one":
            world.gather("")

    def _dealing(self, world: World, *, publishes: bool = False) -> Dealing:
        shared = self.ranks == "deal" and (self.share or world.size > 1)
        return Dealing(self.folder, shared, world.rank, world.size, publishes=publishes)

    def _help(self, world: World) -> None:
        """Make what the process that publishes leaves to us."""
        folder = RunFolder(self.folder)
        with self._dealing(world) as dealing:
            try:
                self.make(Run(folder, world, dealing))
            except RunClosedError:
                return
            except OSError:  # files of a run that was published meanwhile
                if self.ranks != "deal" or dealing.is_open():
                    raise

    def _make(self, world: World) -> Artifact:
        with self.locked() as folder, self._dealing(world, publishes=True) as dealing:
            # Somebody else may have made it between our look and our lock.
            found = self.find() if self.reuse and not self.force else None
            if found is not None:
                self.forget(folder)
                return found
            if self.force and not self.resume:
                folder.clear()
            dealing.open(alone=not self.share)
            self._call_ranks(world)
            started = time.monotonic()
            with ExitStack() as publishing:
                publish = partial(self.store.publish, self.kind, self.name, inputs=self.entries, config=self.settled)
                run = Run(folder, world, dealing, lambda: publishing.enter_context(publish(started=started)))
                self.make(run)
                self._tell_changes()
            dealing.close()
            self.forget(folder)
        return run.out.artifact

    def _tell_changes(self) -> None:
        """Say which inputs were changed while they were worked on: the artifact is recorded as made from the old ones."""
        for key, source in self.inputs.items():
            if source.artifact is None:
                with suppress(DataError, ArtifactError, OSError):
                    now = find(self.store, source.kind, source.path)
                    if (now.digest, now.media) == (source.digest, source.media):
                        continue
                tell(f"warning: {source.ref} ({key}) was changed during the work; the result is of the state before")

    def _clean_up(self, found: Artifact) -> None:
        """Remove what a kill left between publishing and cleaning up."""
        with suppress(OSError):  # a store that can only be read
            remove_abandoned(found.path.parent)
        if self.folder.is_dir():
            with suppress(BusyError), self.locked() as folder:
                self.forget(folder)


def num_ranks() -> int:
    """Count the processes of the job that this one was launched into; 1 alone."""
    return world_from_environment(dict(os.environ)).size


def launch_ranks(num: int, arguments: Sequence[str]) -> int | None:
    """Run `idgrpo <arguments>` in `num` ranks and give their exit code; None where this process is a rank, or is enough."""
    from idgrpo.run.distributed import launch

    return launch(num, arguments) if num > 1 and num_ranks() == 1 else None


def is_main_rank() -> bool:
    """Tell whether this process is the one of its job that tells results."""
    return world_from_environment(dict(os.environ)).is_main

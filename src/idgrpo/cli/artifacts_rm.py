"""`idgrpo artifacts serve` and `idgrpo artifacts import-rm`: a reward model for other machines, and one from the authors."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from idgrpo.cli.options import DryRunOption, ForceOption, JsonOption, NameOption, QuietOption, StoreOption


def serve(
    ref: Annotated[str, typer.Argument(help="The reward model: rm, rm@v3, rm:best, or a folder.")] = "rm",
    device: Annotated[
        list[str] | None, typer.Option(help="cpu, cuda, cuda:1; repeat for several. Default: the GPU if there is one.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. There is no password: open it to private networks only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")] = 8300,
    max_waiting: Annotated[int, typer.Option(min=1, help="Requests at a time; further ones are told to wait.")] = 16,
    batch: Annotated[int, typer.Option(min=1, help="Clips scored at once on a device.")] = 16,
    store: StoreOption = None,
) -> None:
    """Score over HTTP until stopped; prints the address. Callers use it as `--rm http://host:port`."""
    from idgrpo.bases.inventory import default_device
    from idgrpo.cli.output import write_lines
    from idgrpo.reward.score import RewardModel
    from idgrpo.reward.service import listen, make_app
    from idgrpo.reward.service import serve as run
    from idgrpo.run.signals import StopSignal
    from idgrpo.store.store import Store

    path = Path(ref)
    shelf = Store(Path(store)) if store else Store.default()
    is_plain = path.is_dir() and not (path / "manifest.json").is_file()
    folder = path if is_plain else shelf.resolve(ref, kind="rm").path
    with listen(host, port) as listener, StopSignal() as stop:
        models = [RewardModel.load(folder, name, batch=batch) for name in device or [default_device()]]
        shown = f"[{host}]" if ":" in host else host
        write_lines([f"http://{shown}:{listener.getsockname()[1]}"])
        sys.stdout.flush()
        devices = ", ".join(str(model.device) for model in models)
        typer.echo(f"serving {folder} on {devices}; POST /score, GET /health", err=True)
        run(make_app(models, max_waiting=max_waiting), listener, lambda: stop.requested)


def import_rm(
    checkpoint: Annotated[Path, typer.Argument(help="Folder with adapter, non-LoRA state and model_config.json.")],
    vlm: Annotated[
        str | None, typer.Option(help="Base it was trained from: directory or hub id. Default: what its settings name.")
    ] = None,
    template: Annotated[
        Path | None, typer.Option(help="Text file with the wording it was trained with; ours shifts its scores.")
    ] = None,
    store: StoreOption = None,
    name: NameOption = "authors",
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read a reward checkpoint as the paper's authors released it into an artifact of kind rm."""
    from idgrpo.cli.output import finish
    from idgrpo.errors import UsageError
    from idgrpo.reward.authors import read_authors_checkpoint, read_settings
    from idgrpo.reward.checkpoint import checkpoint_digest, find_vlm
    from idgrpo.store.store import Store

    settings = read_settings(checkpoint)
    base = vlm or settings["model_config"]["model_name_or_path"]
    folder = find_vlm(base)
    wording = {}
    if template is not None:
        if not template.is_file():
            raise UsageError(f"there is no template {template}")
        wording = {"template_name": template.stem, "template_text": template.read_text(encoding="utf-8")}
    shelf = Store(Path(store)) if store else Store.default()
    name = name or "authors"
    inputs = {"checkpoint": checkpoint}
    config = {"vlm": base, "vlm_digest": checkpoint_digest(folder), **wording}
    if dry_run:
        document = {"would_read": [str(checkpoint), base], "would_write": f"rm/{name}", "settings": settings}
        summary = [f"reads   {checkpoint}, {base}", f"writes  rm/{name} in {shelf.root}", json.dumps(settings)]
        finish(summary=summary, document=document, artifact=None, quiet=quiet, as_json=as_json)
        return
    artifact = None if force else shelf.find("rm", name, inputs=inputs, config=config)
    if artifact is None:
        with shelf.publish("rm", name, inputs=inputs, config=config) as draft:
            draft.metrics.update(read_authors_checkpoint(checkpoint, folder, draft.path, **wording))
        artifact = draft.artifact
    read = artifact.manifest.metrics
    finish(
        summary=[
            f"reward model {artifact.ref}: {read['adapters']} adapters and {read['weights']} weights on {base}",
            "no key was missing, none was left over",
        ],
        document={"artifact": artifact.ref, "digest": artifact.digest, "path": str(artifact.path), **read},
        artifact=artifact,
        quiet=quiet,
        as_json=as_json,
    )

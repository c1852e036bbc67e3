"""A policy on a hub: its adapter and model card, put together in a folder and uploaded as one commit."""

import os
import re
import tempfile
from pathlib import Path

from idgrpo.errors import IdgrpoError, MachineError, UsageError
from idgrpo.stages.exchange import export
from idgrpo.stages.source import find
from idgrpo.stages.work import Plan
from idgrpo.store.store import Store

WEIGHTS = "pytorch_lora_weights.safetensors"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def push(
    given: str, repository: str, *, dtype: str | None = None, private: bool = True, dry_run: bool = False, store: Store | None = None
) -> Plan:  # fmt: skip
    """Upload a policy's adapter, its settings and a model card to a hub repository `owner/name`.

    Args:
        private: make the repository private where it does not exist yet.
        dry_run: put everything together and say what would be uploaded; nothing leaves this machine.

    Errors: UsageError for a name that is none; MachineError without network, token, or right to write.
    """
    if not REPOSITORY.fullmatch(repository):
        raise UsageError(f"'{repository}' is no repository", fix="say owner/name, such as my-team/vace-two-people")
    store = store or Store.default()
    policy = find(store, "policy", given)
    with tempfile.TemporaryDirectory(prefix="idgrpo-push-") as place:
        folder = Path(place)
        export(policy.ref, folder / WEIGHTS, form="diffusers", dtype=dtype, card=True, store=store)
        (folder / WEIGHTS).with_suffix(".md").rename(folder / "README.md")
        if (settings := policy.path / "policy.json").is_file():
            (folder / "policy.json").write_bytes(settings.read_bytes())
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        card = (folder / "README.md").read_text(encoding="utf-8")
        address = None if dry_run else _upload(folder, repository, private, policy.ref)
    verb = "would upload" if dry_run else "uploaded"
    lines = [f"{verb} {name} ({size / 2**20:.2f} MiB)" for name, size in files.items()]
    lines += [f"to {repository}" + (" (private)" if private else "") if dry_run else f"to {address}"]
    document = {
        "dry_run": dry_run,
        "policy": policy.ref,
        "repository": repository,
        "private": private,
        "files": files,
        "card": card,
    }
    return Plan(lines, {**document, **({} if address is None else {"address": address})})


def _upload(folder: Path, repository: str, private: bool, ref: str) -> str:
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise MachineError("HF_HUB_OFFLINE forbids the network", fix="unset it, or add --dry-run")
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message=f"idgrpo: {ref}"))
    except IdgrpoError:
        raise
    except Exception as error:  # the hub's errors have many classes; all mean that nothing, or not all, is there
        raise MachineError(
            f"{repository}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            fix="log in with `hf auth login`, check the name and your right to write, and run again",
        ) from error

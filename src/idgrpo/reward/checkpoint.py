"""Find the vision-language checkpoint to build on: a directory, a hub id that is on this machine, or the shipped one."""

from collections.abc import Collection
from importlib import resources
from pathlib import Path

from idgrpo.errors import ArtifactError, MachineError
from idgrpo.records.digest import files_digest
from idgrpo.reward.config import REAL_VLM, TINY_SIDE_PX

TINY_VLM = "tiny-vlm"


def default_vlm(width: int, height: int) -> str:
    """Return the checkpoint that suits clips of this size in px: the shipped tiny one up to 64 px, else the 3B one."""
    return TINY_VLM if max(width, height) <= TINY_SIDE_PX else REAL_VLM


def find_vlm(name: str) -> Path:
    """Return the directory of a checkpoint given as `tiny-vlm`, a directory, or a hub id that was downloaded before.

    Raises:
        ArtifactError: the path exists but holds no checkpoint, or the shipped one is not installed.
        MachineError: a hub id whose weights are not on this machine; the fix is the download command.
    """
    if name == TINY_VLM:
        folder = Path(str(resources.files("idgrpo"))) / "tinyworld" / "checkpoints" / TINY_VLM
        if not (folder / "config.json").is_file():
            raise ArtifactError(f"{TINY_VLM} is not installed ({folder} is missing)", fix="make tinyworld")
        return folder
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ArtifactError(f"{folder} holds no checkpoint: config.json is missing")
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ArtifactError(f"{name} is neither a directory nor a model id such as {REAL_VLM}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError) as error:
        raise MachineError(f"the weights of {name} are not on this machine", fix=f"hf download {name}") from error
    if not list(folder.glob("*.safetensors")):
        raise MachineError(f"the copy of {name} on this machine has no weights", fix=f"hf download {name}")
    return folder


def checkpoint_digest(folder: Path, skip: Collection[str] = ()) -> str:
    """Return `sha256:<hex>` over names and contents of a checkpoint's files; hidden ones and those in `skip` do not count."""
    return "sha256:" + files_digest(
        (path.name, path)
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.name not in skip
    )

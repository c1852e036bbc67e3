"""What this machine has, what is missing, and what to do about it: the rows of `idgrpo doctor`."""

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "torchvision", "diffusers", "transformers", "peft", "deepspeed", "av", "facenet-pytorch")
CODECS = {"libx264": "videos for people", "libx264rgb": "lossless videos"}
MIN_DISK_BYTES = 2 * 2**30


def check_machine(bases: list[str] | None = None, *, store: str | None = None) -> list[dict[str, Any]]:
    """Check machine, libraries, codecs and weights: one row each, `needed` where the embedded world needs it.

    bases: also say what a sample by these would cost; None looks for the weights of all.
    """
    return [*_machine(store), *_libraries(), *_codecs(), *_weights(bases)]


def _row(what: str, found: str, *, ok: bool = True, needed: bool = True, do: str = "") -> dict[str, Any]:
    return {"what": what, "found": found, "ok": ok, "needed": needed, "do": do}


def _machine(store: str | None) -> list[dict[str, Any]]:
    import torch

    from idgrpo.run.machine import free_disk_bytes, memory_bytes

    free = free_disk_bytes(Path(store or "."))
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    listed = ", ".join(f"{gpu.name} {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus)
    return [
        _row("python", platform.python_version()),
        _row("cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())),
        _row("memory", f"{memory_bytes() / 2**30:.0f} GiB"),
        _row(
            "disk",
            f"{free / 2**30:.0f} GiB free",
            ok=free > MIN_DISK_BYTES,
            do="free at least 2 GiB or point --store elsewhere",
        ),
        _row(
            "gpu",
            listed or "none: the embedded world runs on the CPU, full-size bases need a GPU",
            ok=bool(gpus),
            needed=False,
        ),
    ]


def _libraries() -> list[dict[str, Any]]:
    rows = []
    for name in LIBRARIES:
        try:
            rows.append(_row(name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            rows.append(_row(name, "not installed", ok=False, do=f"pip install {name}"))
    rows.append(
        _row(
            "ninja",
            shutil.which("ninja") or "not on PATH (DeepSpeed's own kernels need it; idgrpo does not)",
            ok=True,
            needed=False,
        )
    )
    return rows


def _codecs() -> list[dict[str, Any]]:
    import av

    return [
        _row(
            name,
            use if name in av.codecs_available else "missing",
            ok=name in av.codecs_available,
            do="install the av package from the registry",
        )
        for name, use in CODECS.items()
    ]


def _weights(bases: list[str] | None) -> list[dict[str, Any]]:
    """Look for the weights of bases; of those named by the user, say what a sample would cost here as well."""
    from idgrpo.bases.entries import ENTRIES
    from idgrpo.bases.inventory import at_hand
    from idgrpo.bases.load import resolve_entry
    from idgrpo.errors import ArtifactError

    rows = []
    for name in bases or ENTRIES:
        needed = bool(bases) or resolve_entry(name).architecture == "tiny"
        try:
            report = at_hand(name)
        except ArtifactError as error:
            rows.append(_row(f"base {name}", error.message, ok=False, needed=needed, do=error.fix or ""))
            continue
        ready = report["ready"]
        found = report["source"] if ready else report["missing"]
        row = _row(f"base {name}", found, ok=ready, needed=needed, do=report.get("get") or "")
        if bases:
            places = [f"{part}: {path}" for part, path in report.get("parts", {}).items()]
            pinned = [f"{part}: revision {commit}" for part, commit in report.get("revisions", {}).items()]
            row["notes"] = [*places, *pinned, *report.get("summary", [])]
        rows.append(row | {key: report[key] for key in ("parts", "revisions", "cost") if key in report})
    return rows

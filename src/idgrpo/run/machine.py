"""What the machine has: disk, memory, cores."""

import contextlib
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from idgrpo.errors import MachineError, UsageError

if TYPE_CHECKING:
    import torch

DTYPE_ENV = "IDGRPO_DTYPE"


def free_disk_bytes(path: Path) -> int:
    """Return free bytes on the disk that holds `path` (or its nearest existing parent)."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def memory_bytes() -> int:
    """Return the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device_name(device: str) -> str:
    """Say what computes: the name of a GPU, or the cores of the CPU that this process may use."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(torch.device(device))
    num = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()} CPU, {num} cores"


def weights_dtype(device: "str | torch.device") -> "torch.dtype":
    """Give the type that weights of generators and vision-language models are held and computed in on a device.

    bfloat16 on a GPU, float32 on a CPU, unless $IDGRPO_DTYPE says one of them: like the device it belongs to the machine, not
    to what is asked for. Raises UsageError for another value.
    """
    import torch

    asked = os.environ.get(DTYPE_ENV) or ("float32" if torch.device(device).type == "cpu" else "bfloat16")
    if asked not in ("float32", "bfloat16"):
        raise UsageError(f"{DTYPE_ENV}={asked} is no type of weights here", fix="float32 or bfloat16")
    return getattr(torch, asked)


def require_disk(path: Path, size_bytes: int) -> None:
    """Raise MachineError when less than `size_bytes` is free where `path` lies."""
    free = free_disk_bytes(path)
    if free < size_bytes:
        raise MachineError(
            f"{path} needs {size_bytes / 2**20:.0f} MiB, the disk has {free / 2**20:.0f} MiB left",
            fix="free some space or point --store elsewhere",
        )


def deepspeed_problem() -> str | None:
    """Say in one sentence why DeepSpeed cannot be used here, None when it can: it asks for the CUDA toolkit when imported.

    On a machine with a GPU and without nvcc the import itself fails, with an error of DeepSpeed's own, not an ImportError.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it logs to stdout, which carries the result alone
            import deepspeed  # noqa: F401
    except ImportError as error:
        return f"DeepSpeed is not installed or lacks a part: {error} (pip install deepspeed, or leave engine.zero out)"
    except Exception as error:  # MissingCUDAException, OSError of a library, RuntimeError of a driver
        if type(error).__name__ == "MissingCUDAException" or "CUDA_HOME" in str(error):
            return (
                f"DeepSpeed needs the CUDA toolkit (nvcc), which is not here: {error} (install it and set CUDA_HOME, set "
                "DS_SKIP_CUDA_CHECK=1 if it is another version, or leave engine.zero out)"
            )
        return f"DeepSpeed cannot be imported: {type(error).__name__}: {error} (leave engine.zero out)"
    return None

"""One command of idgrpo in this process, with what it took: `python -m tests.full_size.measured FIGURES.json COMMAND ...`.

Writes seconds, peak resident memory, the operations that were executed, and the peak of a matrix product in the same process;
the command's own output stays on stdout.
"""

import json
import sys
import threading
import time
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from idgrpo.cli.main import run
from idgrpo.run.machine import weights_dtype


class Operations(TorchDispatchMode):
    """Count operations of matrix products, convolutions and attention, in all threads that enter it."""

    def __init__(self) -> None:
        super().__init__()
        self.flop = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flop += count(*args, **(kwargs or {}), out_val=out)
        return out


def count_in_threads(operations: Operations) -> None:
    """Let threads that begin from now on count too: rewards are computed in one of their own."""
    begin = threading.Thread.run

    def counted(self: threading.Thread) -> None:
        with operations:
            begin(self)

    threading.Thread.run = counted  # type: ignore[method-assign]


def matmul_tflops() -> float:
    """Measure the peak of a large square matrix product in the type of the weights."""
    size, repeats = 2048, 8
    a, b = (torch.randn(size, size).to(weights_dtype("cpu")) for _ in range(2))
    a @ b
    started = time.perf_counter()
    for _ in range(repeats):
        a @ b
    return 2 * size**3 * repeats / (time.perf_counter() - started) / 1e12


def peak_kib() -> int:
    """Read the peak of this process's resident memory. `getrusage` would tell that of the process before the exec, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main() -> None:
    figures, *command = sys.argv[1:]
    operations = Operations()
    count_in_threads(operations)
    started = time.perf_counter()
    with operations:
        code = run(command)
    seconds = time.perf_counter() - started
    peak_gib = peak_kib() / 2**20
    measured = {
        "seconds": seconds,
        "peak_gib": peak_gib,
        "tflop": operations.flop / 1e12,
        "peak_tflops": matmul_tflops(),
    }
    Path(figures).write_text(
        json.dumps(measured | {"share_of_peak": measured["tflop"] / seconds / measured["peak_tflops"]})
    )
    raise SystemExit(code)


if __name__ == "__main__":
    main()

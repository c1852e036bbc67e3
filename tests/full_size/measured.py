"""One command of idgrpo in this process, with what it took: `python -m tests.full_size.measured FIGURES.json COMMAND ...`.

Writes seconds, peak resident memory above that of the libraries alone, the operations that each part of the model executed, and
the peak of a matrix product in the same process; the command's own output stays on stdout.
"""

import functools
import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import PreTrainedModel, Qwen2_5_VLModel, UMT5EncoderModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from idgrpo.cli.main import run
from idgrpo.run.machine import weights_dtype

VISION = Qwen2_5_VisionTransformerPretrainedModel  # called apart from the whole: pictures are encoded once
PARTS = {
    "vae": ((AutoencoderKLWan, "encode"), (AutoencoderKLWan, "decode")),
    "text": ((UMT5EncoderModel, "forward"),),
    "vlm": ((Qwen2_5_VLModel, "forward"), (VISION, "forward")),
}
"""What a plan of the transformer leaves out: classes and their methods."""


class Operations(TorchDispatchMode):
    """Count operations of matrix products, convolutions and attention by part of the model, in all threads that enter it."""

    def __init__(self, others: str = "transformer") -> None:
        """Take the part under which operations outside of `PARTS` are booked, such as those of a backward."""
        super().__init__()
        self.others = others
        self.flop: Counter[str] = Counter()
        self.at = threading.local()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        count = flop_registry.get(func._overloadpacket)
        if count is None and func is not torch.ops.prim.device.default:
            with self:  # inference mode hands `linear` and the like over whole
                out = func.decompose(*args, **(kwargs or {}))
            if out is not NotImplemented:
                return out
        out = func(*args, **(kwargs or {}))
        if count is not None:
            self.flop[getattr(self.at, "part", self.others)] += count(*args, **(kwargs or {}), out_val=out)
        return out

    def attribute(self, part: str, cls: type, method: str) -> None:
        """Book what a method executes under the name of a part."""
        setattr(cls, method, self._booked(part, getattr(cls, method)))

    def _booked(self, part: str, function: Any) -> Any:
        @functools.wraps(function)
        def booked(*args: Any, **kwargs: Any) -> Any:
            before, self.at.part = getattr(self.at, "part", self.others), part
            try:
                return function(*args, **kwargs)
            finally:
                self.at.part = before

        return booked


def read_whole() -> None:
    """Let models of transformers touch all that they map: a GPU holds every row of an embedding, a CPU those that are asked for."""
    read = PreTrainedModel.from_pretrained.__func__

    def read_and_touched(cls: type, *args: Any, **kwargs: Any) -> Any:
        found = read(cls, *args, **kwargs)
        model = found[0] if isinstance(found, tuple) else found
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.flatten()[::1024].sum()
        return found

    PreTrainedModel.from_pretrained = classmethod(read_and_touched)  # type: ignore[method-assign, assignment]


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


def resident_gib(key: str) -> float:
    """Read this process's resident memory, `VmRSS` or its peak `VmHWM`. `getrusage` would tell that before the exec, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 2**20


def main() -> None:
    figures, *command = sys.argv[1:]
    operations = Operations("vlm" if command[0] in ("train-rm", "annotate") else "transformer")
    for part, methods in PARTS.items():
        for cls, method in methods:
            operations.attribute(part, cls, method)
    count_in_threads(operations)
    read_whole()
    libraries_gib = resident_gib("VmRSS")
    started = time.perf_counter()
    with operations:
        code = run(command)
    seconds = time.perf_counter() - started
    tflop = {part: flop / 1e12 for part, flop in operations.flop.items()}
    measured = {
        "seconds": seconds,
        "peak_gib": resident_gib("VmHWM") - libraries_gib,
        "libraries_gib": libraries_gib,
        "tflop": tflop,
        "peak_tflops": matmul_tflops(),
    }
    share = sum(tflop.values()) / seconds / measured["peak_tflops"]
    Path(figures).write_text(json.dumps(measured | {"share_of_peak": share}))
    raise SystemExit(code)


if __name__ == "__main__":
    main()

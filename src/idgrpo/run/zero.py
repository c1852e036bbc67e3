"""DeepSpeed as an engine: ZeRO 0 to 3 over adapters or full weights, with a plain AdamW as its optimizer."""

import contextlib
import logging
import math
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from idgrpo.errors import MachineError, UsageError
from idgrpo.run.distributed import World
from idgrpo.run.engine import Engine, OptimizerSettings, PlainEngine, StepReport
from idgrpo.run.machine import deepspeed_problem

FOLDER = "deepspeed"


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that does not step on gradients that are not finite: DeepSpeed in float32 does not look."""

    refused = False

    def step(self, closure: Any = None) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.refused = not all(bool(gradient.isfinite().all()) for gradient in gradients)
        return None if self.refused else super().step(closure)


class ZeroEngine:
    """Wraps a module whose forward is called as before; DeepSpeed's hooks sit on the module itself."""

    needs_equal_backwards = True
    restores_weights = True

    def __init__(
        self, module: nn.Module, weights: dict[str, nn.Parameter], settings: OptimizerSettings, world: World, stage: int
    ):
        deepspeed = import_deepspeed()
        self.world, self.stage, self.weights, self.settings = world, stage, weights, settings
        self.num_weights = sum(parameter.numel() for parameter in weights.values())
        self._deepspeed = deepspeed
        optimizer = GuardedAdamW(
            weights.values(),
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
        self.client = optimizer
        ensure_process_group(world)
        with contextlib.redirect_stdout(sys.stderr):
            self.engine, _, _, _ = deepspeed.initialize(
                model=module,
                model_parameters=list(weights.values()),
                optimizer=optimizer,
                config=deepspeed_config(stage, settings.max_grad_norm),
            )

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add a share of the global loss; DeepSpeed averages over ranks, so the share is scaled up by their number.

        The module is called directly, so the engine's own `forward` never tells its optimizer that another micro-batch
        has begun; untold, ZeRO 3 overwrites the gradient of the micro-batch before instead of adding to it.
        """
        self.engine.optimizer.clear_backward_seen_flag()
        self.engine.set_gradient_accumulation_boundary(is_last)
        self.engine.backward(loss * self.world.size)

    def step(self, lr: float) -> StepReport:
        """Clip and step; the report holds the norm before the clip."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        norm = float(norm) if norm is not None else math.nan
        refused = self.world.any(self.client.refused) or not math.isfinite(norm)
        return StepReport(norm, norm / math.sqrt(self.num_weights), not refused)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Make the trained weights whole for reading; under ZeRO 3 each rank holds a part otherwise."""
        if self.stage < 3:
            yield
            return
        with self._deepspeed.zero.GatheredParameters(list(self.weights.values())):
            yield

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Make all weights whole, frozen ones too, and forwards free of collectives; entered and left on all ranks.

        Under ZeRO 3 only; what is written to the weights inside is lost. Hooks that fetch and release each layer's weights
        are taken off meanwhile, so ranks may compute unequally much inside (evaluation runs on the main rank alone).
        """
        if self.stage < 3:
            yield
            return
        offload = self.engine.optimizer.parameter_offload
        with self._deepspeed.zero.GatheredParameters(list(self.engine.module.parameters())):
            for hook in (*offload.forward_hooks, *offload.backward_hooks):
                hook.remove()
            offload.forward_hooks, offload.backward_hooks = [], []
            try:
                yield
            finally:
                for parameter in self.engine.module.parameters():
                    parameter.ds_active_sub_modules.clear()
                offload._register_deepspeed_module(offload.module)

    def prepare_save(self, scratch: Path) -> None:
        """Let every rank write its part; called on all ranks before the main one saves."""
        if self.world.is_main:
            shutil.rmtree(scratch, ignore_errors=True)
        self.world.barrier()
        self.engine.save_checkpoint(str(scratch), tag=FOLDER, exclude_frozen_parameters=True)
        self._scratch = scratch
        self.world.barrier()

    def save(self, folder: Path) -> None:
        """Move the parts of all ranks into the checkpoint; on the main rank."""
        shutil.move(str(self._scratch), folder / FOLDER)

    def load(self, folder: Path) -> None:
        """Restore optimizer and weights exactly; the same number of ranks and the same stage are needed."""
        path, _ = self.engine.load_checkpoint(
            str(folder / FOLDER), tag=FOLDER, load_module_strict=False, load_lr_scheduler_states=False
        )
        if path is None:
            raise UsageError(
                f"no DeepSpeed state for {self.world.size} ranks and ZeRO {self.stage} in {folder}",
                fix="resume with the number of ranks and the ZeRO stage of the run",
            )


def make_engine(
    module: nn.Module, weights: dict[str, nn.Parameter], settings: OptimizerSettings, world: World, zero: int | None
) -> Engine:
    """Give the plain engine, or DeepSpeed with a ZeRO stage."""
    if not zero:
        return PlainEngine(weights, settings, world)
    return ZeroEngine(module, weights, settings, world, zero)


def deepspeed_config(stage: int, max_grad_norm: float) -> dict[str, Any]:
    """Give the configuration; without `bf16`, which would cast everything, adapters too."""
    zero: dict[str, Any] = {"stage": stage}
    if stage == 3:
        # DeepSpeed's own linear layer adds the bias in a second rounding, which in bf16 moves the velocity.
        zero |= {"stage3_param_persistence_threshold": 0, "memory_efficient_linear": False}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "wall_clock_breakdown": False,
    }


def import_deepspeed() -> Any:
    """Import DeepSpeed with plain gloo on CPU; its shared-memory op would compile for over a minute.

    Raises MachineError when it is not installed, or cannot be imported here.
    """
    if problem := deepspeed_problem():
        raise MachineError(f"ZeRO cannot be used: {problem}")
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    for handler in logging.getLogger("DeepSpeed").handlers:  # set up already where another library imported it first
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
    __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def ensure_process_group(world: World) -> None:
    """Give a single process the process group that DeepSpeed insists on, and any its local rank (SLURM sets none)."""
    os.environ.setdefault("LOCAL_RANK", str(world.local_rank))
    if world.size == 1 and not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)

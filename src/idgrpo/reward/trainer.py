"""transformers' Trainer with pair losses: parts have their own learning rates, draws keep their order, resume is exact."""

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from idgrpo.errors import ArtifactError, IdgrpoError
from idgrpo.reward.losses import PairLoss, mean_over_valid
from idgrpo.run.checkpoint import damage, seal
from idgrpo.run.distributed import World

WEIGHTS = "model.safetensors"
DIVERGED = "lower the rates (full.rates.*, head.rate), or look at what the pairs hold"

log = logging.getLogger(__name__)


def pair_objective(loss: PairLoss, arguments: dict[str, float]) -> Callable[..., Tensor]:
    """Return the Trainer's loss function: the mean over the valid pairs of the whole update, on all ranks, each with its
    weight where the network passes weights on."""

    def objective(outputs: dict[str, Tensor], labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
        values = loss(outputs["gap"].float(), labels, **arguments) * outputs.get("weight", 1.0)
        return mean_over_valid(values, labels, num_items_in_batch)

    return objective


class RewardTrainer(Trainer):
    """Trainer for networks that return `gap`; only trainable weights go into its checkpoints."""

    optimizer: torch.optim.Optimizer | None

    def __init__(self, *args: Any, groups: list[dict] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._groups = groups
        self.remove_callback(PrinterCallback)  # stdout carries the command's result only

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build AdamW over the parts, each with its own rate."""
        if self.optimizer is None:
            groups = self._groups or [{"params": [p for p in self.model.parameters() if p.requires_grad]}]
            self.optimizer = torch.optim.AdamW(
                groups,
                lr=self.args.learning_rate,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                eps=self.args.adam_epsilon,
                weight_decay=self.args.weight_decay,
            )
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # Frozen weights are those of the checkpoint that the run's fingerprint names: no need to store them again.
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model)
        names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        state = state_dict if state_dict is not None else model.state_dict()
        kept = {name: value.contiguous().clone() for name, value in state.items() if name in names}
        if wrong := [name for name, value in kept.items() if not bool(value.isfinite().all())]:
            raise IdgrpoError(
                f"training went astray by update {self.state.global_step}: {wrong[0]} is not finite", fix=DIVERGED
            )
        save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target = self.accelerator.unwrap_model(model if model is not None else self.model)
        state = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        wanted = {name for name, parameter in target.named_parameters() if parameter.requires_grad}
        if wanted != set(state):
            difference = ", ".join(sorted(wanted ^ set(state))[:5])
            raise ArtifactError(f"{resume_from_checkpoint} holds other weights than this training ({difference} ..)")
        target.load_state_dict(state, strict=False)


class RunCallback(TrainerCallback):
    """Write figures into the run's metrics, move the progress bar, seal checkpoints, stop cleanly on all ranks at once."""

    def __init__(
        self,
        log: Callable[..., None],
        advance: Callable[[int, float | None], None],
        stop_requested: Callable[[], bool],
        world: World,
    ):
        self._log = log
        self._advance = advance
        self._stop_requested = stop_requested
        self._world = world
        self._loss: float | None = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        """Keep loss, gradient norm and rate; a loss that is not finite ends the training."""
        if not logs or "loss" not in logs:
            return
        self._loss = float(logs["loss"])
        if state.is_world_process_zero:
            names = ("loss", "grad_norm", "learning_rate")
            self._log(state.global_step, **{name: float(logs[name]) for name in names if name in logs})
        if not math.isfinite(self._loss):
            raise IdgrpoError(f"the loss is {self._loss} at update {state.global_step}", fix=DIVERGED)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Count the update; on a stop request of any rank save and leave, all together."""
        self._advance(state.global_step, self._loss)
        if self._world.any(self._stop_requested()):
            control.should_save = True
            control.should_training_stop = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seal the checkpoint when all ranks have written their files."""
        self._world.barrier()
        if self._world.is_main:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def latest_complete(folder: Path) -> Path | None:
    """Return the newest checkpoint that is sealed and holds what its seal says; a newer one is named in a warning."""
    steps = [path for path in folder.glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
    for path in sorted(steps, key=lambda p: int(p.name.split("-")[-1]), reverse=True):
        problem = damage(path)
        if problem is None:
            return path
        log.warning("%s is not used: %s", path, problem)
    return None


def training_arguments(folder: Path, *, device: str, **settings: Any) -> TrainingArguments:
    """Return Trainer arguments with the house's fixed choices: no own output, no hub, no reports, columns kept."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=device == "cpu",
        ddp_backend="gloo" if device == "cpu" and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None,
        num_train_epochs=1,
        optim="adamw_torch",
        remove_unused_columns=False,
        label_names=["labels"],
        save_strategy="steps",
        logging_strategy="steps",
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        dataloader_drop_last=False,
        dataloader_pin_memory=device != "cpu",
        **settings,
    )
    # One process, one device, whatever the machine has: transformers would multiply the batch by the GPUs it sees, and
    # torch's DataParallel would cut position_ids along the wrong axis. The number is known once the device is.
    _ = arguments.device
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments

"""transformers' Trainer with pair losses: parts have their own learning rates, draws keep their order, resume is exact."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from idgrpo.errors import ArtifactError
from idgrpo.reward.losses import PairLoss, mean_over_valid

WEIGHTS = "model.safetensors"


def pair_objective(loss: PairLoss, arguments: dict[str, float]) -> Callable[..., Tensor]:
    """Return the Trainer's loss function: the mean over the valid pairs of the whole update, on all ranks."""

    def objective(outputs: dict[str, Tensor], labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
        return mean_over_valid(loss(outputs["gap"].float(), labels, **arguments), labels, num_items_in_batch)

    return objective


class RewardTrainer(Trainer):
    """Trainer for networks that return `gap`; only trainable weights go into its checkpoints."""

    optimizer: torch.optim.Optimizer | None

    def __init__(self, *args: Any, groups: list[dict] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._groups = groups
        self.remove_callback(PrinterCallback)  # stdout carries the command's result only
        # One process, one device: torch's DataParallel would cut position_ids along the wrong axis.
        self.args._n_gpu = min(self.args.n_gpu, 1)

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
    """Write figures into the run's metrics, move the progress bar, stop cleanly when asked."""

    def __init__(
        self, log: Callable[..., None], advance: Callable[[int, float | None], None], stop_requested: Callable[[], bool]
    ):
        self._log = log
        self._advance = advance
        self._stop_requested = stop_requested
        self._loss: float | None = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        """Keep loss, gradient norm and rate."""
        if logs and "loss" in logs and state.is_world_process_zero:
            self._loss = float(logs["loss"])
            names = ("loss", "grad_norm", "learning_rate")
            self._log(state.global_step, **{name: float(logs[name]) for name in names if name in logs})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Count the update; on a stop request save and leave."""
        self._advance(state.global_step, self._loss)
        if self._stop_requested():
            control.should_save = True
            control.should_training_stop = True
        return control


def latest_complete(folder: Path) -> Path | None:
    """Return the newest checkpoint whose files are all whole; a killed process may leave a partial one behind."""
    steps = [path for path in folder.glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
    for path in sorted(steps, key=lambda p: int(p.name.split("-")[-1]), reverse=True):
        if _is_complete(path):
            return path
    return None


def _is_complete(path: Path) -> bool:
    try:
        json.loads((path / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    if any(path.glob("global_step*")):  # DeepSpeed keeps optimizer and weights in its own folder
        return (path / "latest").is_file()
    zips = [path / "optimizer.pt", path / "scheduler.pt"]
    return (path / WEIGHTS).is_file() and all(p.is_file() and zipfile.is_zipfile(p) for p in zips)


def training_arguments(folder: Path, *, device: str, **settings: Any) -> TrainingArguments:
    """Return Trainer arguments with the house's fixed choices: no own output, no hub, no reports, columns kept."""
    return TrainingArguments(
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

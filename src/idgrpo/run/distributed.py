"""The processes of one job: join whatever launched us, and the few collectives training needs (gloo or nccl)."""

import atexit
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from idgrpo.errors import IdgrpoError, UsageError
from idgrpo.run.progress import tell
from idgrpo.run.signals import stop_with_parent

if TYPE_CHECKING:
    from torch import Tensor


WAIT_LIMIT = timedelta(hours=2)
"""How long a rank waits in a collective: held-out evaluation and its videos are the main rank's alone, and others wait."""
FIRST_PORT, NUM_PORTS = 15000, 15000
"""Ports for ranks of SLURM to meet at: below those that systems give to outgoing connections."""
ENTRY = "from idgrpo.cli.main import main; main()"


@dataclass(frozen=True)
class World:
    """This process among `size` equal ones; with size 1 every collective is free and torch.distributed is not touched."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_(self, tensor: "Tensor") -> "Tensor":
        """Add a tensor over all ranks, in place."""
        if self.size > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """Give every rank the values of all ranks, in rank order."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set on any rank, so that all ranks stop at the same place."""
        return any(self.gather(flag)) if self.size > 1 else flag

    def barrier(self) -> None:
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()


def world_from_environment(environment: dict[str, str]) -> World:
    """Read rank and size as torchrun and the deepspeed launcher (RANK, WORLD_SIZE) or a step of SLURM set them.

    Only `srun` makes ranks: an allocation (salloc, sbatch) also tells its number of tasks to a command that runs once.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    else:
        return World()
    rank, size = int(environment[names[0]]), int(environment[names[1]])
    return World(rank, size, int(environment.get(names[2], rank)))


def meeting_point(environment: dict[str, str]) -> dict[str, str]:
    """Give MASTER_ADDR and MASTER_PORT as far as they are known: those that are set, else SLURM's.

    Ranks of a SLURM step meet on the step's first host, where rank 0 runs, at a port that its job and step number give.
    """
    names = ("MASTER_ADDR", "MASTER_PORT")
    known = {name: environment[name] for name in names if environment.get(name)}
    if environment.get("SLURM_STEP_NODELIST"):
        job, step = int(environment.get("SLURM_JOB_ID", "0")), int(environment.get("SLURM_STEP_ID", "0"))
        known.setdefault("MASTER_ADDR", first_host(environment["SLURM_STEP_NODELIST"]))
        known.setdefault("MASTER_PORT", str(FIRST_PORT + (7 * job + step) % NUM_PORTS))
    return known


def first_host(hosts: str) -> str:
    """Give the first name of a SLURM host list: `gpu[003-007,9],login` -> `gpu003`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", hosts)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first.group() if first else hosts)


def rank_device(device: str, world: World) -> str:
    """Give a rank its own GPU where `device` names no certain one; SLURM may show each task one GPU, which is cuda:0."""
    if device != "cuda" or world.size == 1:
        return device
    import torch

    return f"cuda:{world.local_rank % torch.cuda.device_count()}"


def join_world(device: str | None = None) -> World:
    """Join the job this process was launched into and set up torch.distributed; alone, do nothing.

    device: what the stage works on; ranks on CPUs talk by gloo also where there are GPUs. Raises UsageError when a launcher
    gave a rank but no address to meet at.
    """
    world = world_from_environment(dict(os.environ))
    if world.size == 1:
        return world
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return world
    meeting = meeting_point(dict(os.environ))
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in meeting]
    if missing:
        raise UsageError(
            f"rank {world.rank} of {world.size} does not know where to meet: {', '.join(missing)} not set",
            fix="start with `--nproc N`, torchrun or srun, or export both variables",
        )
    cuda = torch.cuda.is_available() and device != "cpu"
    local_rank = world.local_rank % torch.cuda.device_count() if cuda else world.local_rank
    # transformers, accelerate and DeepSpeed know torchrun's variables only: under `srun` each rank would train alone.
    words = {"RANK": str(world.rank), "WORLD_SIZE": str(world.size), "LOCAL_RANK": str(local_rank)}
    os.environ.update(meeting | words)
    if cuda:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if cuda else "gloo", rank=world.rank, world_size=world.size, timeout=WAIT_LIMIT)
    atexit.register(leave_world)  # a group that is still there when the interpreter ends may abort it
    return world


def leave_world() -> None:
    """Take torch.distributed down, where it was set up."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def launch(num_processes: int, arguments: Sequence[str]) -> int:
    """Run `idgrpo <arguments>` in `num_processes` ranks on this machine; give the exit code.

    Ours instead of torchrun's agent, which folds every failure of a child into 1: a clean stop must stay 75. Rank 0 alone
    keeps stdout, so that one summary or JSON document comes out. Ranks whose launcher is killed stop with a checkpoint.

    Raises IdgrpoError with the exit code 128 + signal when a signal ended a rank and rank 0 can no longer tell it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(num_processes):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(num_processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        output = None if rank == 0 else subprocess.DEVNULL
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", ENTRY, *arguments], env=environment, stdout=output, preexec_fn=stop_with_parent
            )
        )
    return _wait(processes)


def _wait(processes: list[subprocess.Popen]) -> int:
    """Wait for all ranks; when one fails, end the others (they would hang in a collective) and give its exit code."""

    def forward(number: int, frame: object) -> None:
        for process in processes:
            process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while True:
            codes = [process.poll() for process in processes]
            if codes[0] == 0:  # the result is published and told: how libraries of other ranks leave changes nothing
                _end(processes, grace_s=10.0)
                return 0
            failed = [(rank, code) for rank, code in enumerate(codes) if code]
            if failed:
                _end(processes, grace_s=10.0)
                return _told(*failed[0], processes)
            time.sleep(0.1)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _told(rank: int, code: int, processes: list[subprocess.Popen]) -> int:
    """Give the exit code of a job one of whose ranks ended with `code`; a rank that a signal ended could not tell why."""
    if code > 0:
        return code
    name = signal.Signals(-code).name
    error = IdgrpoError(
        f"process {rank} of {len(processes)} was ended by {name}"
        + (" (as the system does where memory runs out)" if name == "SIGKILL" else ""),
        fix="run the same command again: what is finished is kept",
    )
    error.exit_code = 128 - code
    main = processes[0].returncode
    if main < 0:
        raise error
    tell(f"error: {error}")
    return main or error.exit_code  # what rank 0 told of itself stands on stdout


def _end(processes: list[subprocess.Popen], grace_s: float) -> None:
    """Give the remaining ranks a moment to stop by themselves (a clean stop reaches all), then kill them."""
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(0.1)
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()

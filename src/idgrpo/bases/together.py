"""One clip over several ranks (context parallelism): each holds a part of the tokens, attention exchanges them (Ulysses).

diffusers' own hooks split, exchange and gather. The main rank samples as if it were alone: whenever it calls the transformer,
it hands the inputs to the others, which compute their part of the same call. So one rank reads, decides, stops and writes.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from idgrpo.bases.contract import VideoSize
from idgrpo.bases.geometry import Geometry
from idgrpo.errors import IdgrpoError, StoppedError, UsageError
from idgrpo.run.distributed import World

if TYPE_CHECKING:
    from idgrpo.bases.wan import WanBase


def refuse_uneven(
    heads: int, geometry: Geometry, size: VideoSize, numbers_of_references: Iterable[int], num_ranks: int
) -> None:
    """Raise UsageError where the heads, or the tokens of a clip, do not divide over the ranks."""
    counts = {f"{geometry.num_tokens(size, num)} tokens with {num} references": geometry.num_tokens(size, num)
              for num in sorted(set(numbers_of_references))}  # fmt: skip
    uneven = [text for text, count in ({f"{heads} heads": heads} | counts).items() if count % num_ranks]
    if uneven:
        raise UsageError(
            f"{', '.join(uneven)} do not divide over {num_ranks} ranks that make a clip together",
            fix="another --context-parallel, another --size, or --nproc, which deals whole clips out",
        )


LOAD = "load"
"""What the main rank says when its transformer is there."""


@contextmanager
def leading(base: "WanBase", world: World) -> Iterator[None]:
    """Let the other ranks, which must be `following`, take part in every call of the transformer."""

    is_calling = False

    def hand_over(module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        nonlocal is_calling
        assert not args, "the transformer is called by keywords"
        is_calling = True
        shapes = {name: (value.shape, value.dtype) for name, value in inputs.items() if isinstance(value, Tensor)}
        world.gather((shapes, {name: value for name, value in inputs.items() if name not in shapes}))
        for name in shapes:
            torch.distributed.broadcast(inputs[name].contiguous(), 0)

    def returned(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        nonlocal is_calling
        is_calling = False

    def ready(loaded: "WanBase") -> None:
        world.gather(LOAD)
        _split(loaded, world)
        loaded.transformer.register_forward_pre_hook(hand_over, with_kwargs=True)
        loaded.transformer.register_forward_hook(returned)

    if base.transformer is None:
        before = base.when_loaded

        def both(loaded: "WanBase") -> None:
            before(loaded)
            ready(loaded)

        base.when_loaded = both
    else:
        ready(base)
    try:
        yield
    except BaseException as error:
        # In the middle of a call the others wait for their share of it, not for a word: they see that this rank has gone.
        if not is_calling:
            kind = StoppedError if isinstance(error, StoppedError) else IdgrpoError
            with suppress(RuntimeError):  # a rank that has gone
                world.gather((kind, f"the main rank stopped: {error}"))
        raise
    world.gather(None)


def following(base: "WanBase", world: World) -> None:
    """Compute this rank's part of every call that the main rank makes, until that ends. Raises what ended it there."""
    while (call := world.gather(None)[0]) is not None:
        if call == LOAD:
            base.load_transformer()
            _split(base, world)
            continue
        first, inputs = call
        if not isinstance(first, dict):
            raise first(inputs)
        for name, (shape, dtype) in first.items():
            inputs[name] = torch.empty(shape, dtype=dtype, device=base.device)
            torch.distributed.broadcast(inputs[name], 0)
        with torch.no_grad():
            base.transformer(**inputs)


def _split(base: "WanBase", world: World) -> None:
    """Divide a transformer's tokens over the ranks. Raises UsageError for an attention kernel that cannot take part."""
    from diffusers import ContextParallelConfig
    from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput, ParallelConfig
    from diffusers.utils import logging
    from torch.distributed.device_mesh import init_device_mesh

    tokens, turned = ContextParallelInput(split_dim=1, expected_dims=3), ContextParallelInput(1, 4, split_output=True)
    plan: dict[str, Any] = {
        "rope": {0: turned, 1: turned},
        "blocks.0": {"hidden_states": tokens},
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }
    if base.entry.family == "vace":  # its side blocks see all tokens too, and give their part to the blocks
        plan["vace_blocks.0"] = {"hidden_states": tokens, "control_hidden_states": tokens}

    def on_our_device(config: Any) -> ParallelConfig:
        # diffusers' own asks for the machine's accelerator, and a CPU is none.
        parallel, kind = ParallelConfig(context_parallel_config=config), base.device.type
        mesh = init_device_mesh(kind, config.mesh_shape, mesh_dim_names=config.mesh_dim_names)
        parallel.setup(world.rank, world.size, base.device, mesh=mesh)
        base.transformer._parallel_config = parallel
        return parallel

    warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers.hooks.context_parallel")
    base.transformer._resolve_parallel_config = on_our_device
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # "an experimental feature": our docs say so
    try:
        base.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=world.size), cp_plan=plan)
    except ValueError as error:
        raise UsageError(str(error).splitlines()[0], fix="--set attention=native") from error
    finally:
        logging.set_verbosity(level)

"""A reward model that scores over HTTP for other machines."""

from collections.abc import Callable, Sequence

from idgrpo.stages.source import Given, find
from idgrpo.store.store import Store


def serve_rm(
    rm: Given = None,
    *,
    devices: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = 8300,
    max_waiting: int = 16,
    batch: int = 16,
    store: Store | None = None,
    tell_address: Callable[[str], None],
    tell: Callable[[str], None],
) -> None:
    """Score over HTTP until stopped. Callers use the address, which `tell_address` gets, as `--rm http://host:port`.

    There is no password: open it to private networks only.
    """
    from idgrpo.bases.inventory import default_device
    from idgrpo.reward.score import RewardModel
    from idgrpo.reward.service import listen, make_app, serve
    from idgrpo.run.signals import StopSignal

    folder = find(store or Store.default(), "rm", rm).path
    with listen(host, port) as listener, StopSignal() as stop:
        models = [RewardModel.load(folder, name, batch=batch) for name in devices or [default_device()]]
        shown = f"[{host}]" if ":" in host else host
        tell_address(f"http://{shown}:{listener.getsockname()[1]}")
        tell(f"serving {folder} on {', '.join(str(m.device) for m in models)}; POST /score, GET /health")
        serve(make_app(models, max_waiting=max_waiting), listener, lambda: stop.requested)

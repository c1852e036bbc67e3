"""A reward model that scores over HTTP for other machines."""

import os
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
    join: int = 0,
    names: Sequence[str] = (),
    store: Store | None = None,
    tell_address: Callable[[str], None],
    tell: Callable[[str], None],
) -> None:
    """Score over HTTP until stopped. Callers use the address, which `tell_address` gets, as `--rm http://host:port`.

    With $IDGRPO_SERVICE_TOKEN set here, callers need the same; there is no encryption: put a proxy in front of it, or open it
    to private networks only. join: clips of several waiting requests scored in one call. names: further names of this machine
    that callers use.
    """
    from idgrpo.bases.inventory import default_device
    from idgrpo.reward.client import TOKEN_ENV
    from idgrpo.reward.score import RewardModel
    from idgrpo.reward.service import listen, make_app, serve
    from idgrpo.run.signals import StopSignal

    folder = find(store or Store.default(), "rm", rm).path
    with listen(host, port) as listener, StopSignal() as stop:
        models = [RewardModel.load(folder, name, batch=batch) for name in devices or [default_device()]]
        shown = f"[{host}]" if ":" in host else host
        tell_address(f"http://{shown}:{listener.getsockname()[1]}")
        token = os.environ.get(TOKEN_ENV)
        tell(f"callers need ${TOKEN_ENV}" if token else "no token is asked for: open it to private networks only")
        tell(f"serving {folder} on {', '.join(str(m.device) for m in models)}; POST /score, GET /health, GET /metrics")
        app = make_app(models, max_waiting=max_waiting, hosts=[host, *names], token=token, join=join)
        serve(app, listener, lambda: stop.requested)

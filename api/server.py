"""Running the application under uvicorn."""

from __future__ import annotations

import gc
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
from typing_extensions import override

from api.app import create_app
from api.services import Services
from api.settings import Settings, SettingsError
from api.worker import Worker

BACKLOG: Final = 2048
GRACE_SECONDS: Final = 30
"""How long requests may go on after the signal to stop."""

_STOP: Final = (signal.SIGINT, signal.SIGTERM)


class _Server(uvicorn.Server):
    """Says when it can be reached."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    @override
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises the signal once more afterwards; then nothing below us would be closed.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _STOP}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What the start made lives as long as the process: no collection need look at it again.
        gc.collect()
        gc.freeze()
        if self.started:
            self._on_ready()


def bind(settings: Settings) -> socket.socket:
    """A listening socket, taken before anything else starts.

    Raises:
        SettingsError: the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise SettingsError(
            f"cannot listen on {settings.listen}: {exc.strerror}; give another --listen"
        ) from exc
    return listener


def url_of(settings: Settings, listener: socket.socket) -> str:
    """Where the service can be reached."""
    scheme = "https" if settings.tls_cert_file else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{listener.getsockname()[1]}"


def prepare(services: Services, on_ready: Callable[[], None]) -> uvicorn.Server:
    """A server over `services`; its `run` blocks."""
    settings = services.settings
    config = uvicorn.Config(
        create_app(services),
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        ssl_certfile=settings.tls_cert_file,
        ssl_keyfile=settings.tls_key_file,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return _Server(config, on_ready)


def run(
    services: Services,
    listener: socket.socket,
    worker: Worker | None,
    on_ready: Callable[[], None],
) -> None:
    """Serve until SIGINT or SIGTERM; answers in hand are finished first."""
    http = prepare(services, on_ready)
    if worker is not None:
        worker.start()
    try:
        http.run(sockets=[listener])
    finally:
        if worker is not None:
            worker.stop()

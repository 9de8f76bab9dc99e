"""Runs the server with uvicorn until a signal ends it."""

from __future__ import annotations

import socket

import uvicorn

from penguin_engine.server.limits import Guard

_CONNECTIONS = 512
_END_S = 5


def run(app: Guard, listening: socket.socket) -> None:
    """Serves on an open socket until SIGINT or SIGTERM; requests that still run are then cancelled."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_END_S,
        server_header=False,
        ws="none",
    )
    uvicorn.Server(config).run(sockets=[listening])

"""`penguin-vl serve`: a server that speaks the OpenAI API."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penguin_models.errors import PenguinError, SettingError
from penguin_ros.cli.output import DeviceOption, DtypeOption, RevisionOption, RuntimeOption, stderr, working
from penguin_ros.cli.ros import require_ros

if TYPE_CHECKING:
    from penguin_engine.server.answering import Answerer

_KEY_VARIABLE = "PENGUIN_VL_API_KEY"
_MIN_KEY_CHARS = 16


class ServerError(PenguinError):
    """The server cannot start."""


def serve(
    model: Annotated[str | None, typer.Option(help="Checkpoint or exported folder, or owner/name on the hub.")] = None,
    node: Annotated[
        str | None, typer.Option(help="Running node, such as /penguin, that answers requests without an image.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port; 0 chooses a free one.", min=0, max=65535)] = 8000,
    host: Annotated[
        str, typer.Option(help=f"Address to listen on; one that others reach needs a key in {_KEY_VARIABLE}.")
    ] = "127.0.0.1",
    runtime: RuntimeOption = "torch",
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    queue_size: Annotated[int, typer.Option(help="Requests that wait; more are refused (429).", min=0)] = 8,
    max_body_mb: Annotated[int, typer.Option(help="Largest body of a request in MiB.", min=1)] = 64,
    max_image_pixels: Annotated[
        int, typer.Option(help="Most pixels of the images of a request, and of a frame of a video.", min=1)
    ] = 50_000_000,
    time_limit: Annotated[float, typer.Option(help="Seconds within which an answer must be complete.", min=0.1)] = 300,
) -> None:
    """Serve a model, or a running node, to clients of the OpenAI API, until Ctrl-C.

    Clients send PENGUIN_VL_API_KEY as their API key, if that variable is set.
    """
    if model is None and node is None:
        raise typer.BadParameter("give --model, --node, or both", param_hint="--model")
    _require_server()
    from penguin_engine.server.app import create_app
    from penguin_engine.server.limits import LOOPBACK, Limits
    from penguin_engine.server.running import run
    from penguin_ros.web_server import listen

    key = _api_key(host)
    limits = Limits(max_body_mb * 2**20, max_image_pixels, queue_size, time_limit)
    listening = listen(host, port)  # before the model is loaded, which may take minutes
    answerer = _open(model, node, runtime, device, dtype, revision, limits.max_pixels)
    name = _name(model, node)
    app = create_app(answerer, name, limits, key, LOOPBACK if key is None else ())  # a page has no key
    address, opened = listening.getsockname()[:2]
    stderr.out(f"serving {name} on http://{f'[{address}]' if ':' in address else address}:{opened}/v1")
    run(app, listening)


def _open(
    model: str | None,
    node: str | None,
    runtime: str,
    device: str,
    dtype: str | None,
    revision: str | None,
    max_pixels: int,
) -> Answerer:
    from penguin_engine.runtimes.loading import open_runtime
    from penguin_engine.server.answering import ModelAnswerer, RoutingAnswerer

    if node is not None:
        require_ros()
    local = None
    if model is not None:
        with working(f"loading {model}"):
            local = ModelAnswerer(*open_runtime(runtime, model, device, dtype, revision=revision), max_pixels)
    if node is None:
        assert local is not None
        return local
    from penguin_ros.tools.node_answerer import NodeAnswerer

    return RoutingAnswerer(NodeAnswerer(node), local)


def _require_server() -> None:
    for module in ("fastapi", "uvicorn", "prometheus_client", "multipart"):
        if importlib.util.find_spec(module) is None:
            raise ServerError(f"the server needs {module}: pip install 'penguin-vl[serve]'")


def _api_key(host: str) -> str | None:
    """Returns the key of the environment; an address that other machines reach must have one."""
    from penguin_engine.server.limits import LOOPBACK

    key = os.environ.get(_KEY_VARIABLE)
    if key is not None and len(key) < _MIN_KEY_CHARS:
        raise SettingError(
            f"{_KEY_VARIABLE} has {len(key)} characters, it must have at least {_MIN_KEY_CHARS}; "
            "make one with: openssl rand -hex 24"
        )
    if key is None and host not in LOOPBACK:
        raise SettingError(
            f"other machines reach {host}: set {_KEY_VARIABLE} to a key of at least {_MIN_KEY_CHARS} characters, or "
            "leave out --host"
        )
    return key


def _name(model: str | None, node: str | None) -> str:
    """Returns the name of the model for clients."""
    if model is None:
        assert node is not None
        return node.strip("/")
    return Path(model).resolve().name if Path(model).exists() else model

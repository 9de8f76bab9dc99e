"""`penguin-vl console`: a web page that shows a running node and asks it."""

from __future__ import annotations

from typing import Annotated

import typer

from penguin_ros.cli.output import stdout
from penguin_ros.cli.ros import require_ros
from penguin_ros.stopping import stopping_like_ctrl_c


def console(
    node: Annotated[str, typer.Option(help="Name of the running node.")] = "/penguin",
    host: Annotated[
        str, typer.Option(help="Address to serve; any other than this machine's own, such as 0.0.0.0, needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve; 0 chooses a free one.")] = 8010,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="PENGUIN_CONSOLE_TOKEN",
            show_envvar=True,
            help="What a browser has to show. Other users of this machine can read options: prefer the variable.",
        ),
    ] = None,
) -> None:
    """Serve a page with the pictures, captions, memory, watches and diagnostics of a running node, and ask it."""
    require_ros()
    from penguin_ros.console.server import ConsoleServer

    server = ConsoleServer(node, host, port, token or None)
    stdout.out(f"console of {node}: {server.address}; Ctrl-C ends it")
    if token:
        stdout.out("the page asks for the token once per tab; the address followed by #token=TOKEN carries it")
    with stopping_like_ctrl_c():
        server.run()

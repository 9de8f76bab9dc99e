"""Serves the console of one node until it is stopped."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from penguin_ros.console.app import Console
from penguin_ros.console.guard import Access
from penguin_ros.console.hub import Hub
from penguin_ros.console.robot import HISTORY, Robot
from penguin_ros.web_server import WebServer

_MAX_CONNECTIONS = 128


class ConsoleServer(WebServer):
    """The console's server; it attaches to the node when it runs."""

    def __init__(self, node_name: str, host: str, port: int, token: str | None):
        """Opens the port.

        Args:
            node_name: Full name of the node, for example /penguin.
            host: Address to serve.
            port: The port; 0 chooses a free one.
            token: What a browser has to show; None if only this machine reaches the address.

        Raises:
            PenguinError: The port cannot be opened, or the address needs a token.
        """
        self._app: ASGIApp | None = None
        super().__init__(lambda port: self._serve, host, port, _MAX_CONNECTIONS)
        try:
            self._access = Access.checked(host, self.is_local, token)
        except ValueError:
            self.close()
            raise
        self._node_name = node_name

    def run(self) -> None:
        """Attaches to the node, and serves until `stop` or Ctrl-C; raises NoNodeError if its name is not valid."""
        hub = Hub(HISTORY)
        robot = Robot(self._node_name, hub)
        try:
            self._app = Console(robot, hub).app(self._access)
            super().run()
        finally:
            robot.close()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._app is not None
        await self._app(scope, receive, send)

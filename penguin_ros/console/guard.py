"""Who may use the console: hosts, origins and the token, checked before anything else.

Any page that a browser shows can send requests to this machine, and any name can resolve to it. So a request must name
this machine as its host, must come from the console's own page, and, where a token was set, must carry it.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penguin_models.errors import SettingError
from penguin_models.quoting import shortened

MIN_TOKEN_CHARS = 16
_OPEN_PATHS = ("/", "/page/")
"""The page itself, which holds no data, so that it can ask for the token."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Connection": "close",
}


@dataclass(frozen=True)
class Access:
    """What a request must show."""

    host: str  # the address that is served, as it was given
    token: str | None  # None if none is needed

    @classmethod
    def checked(cls, host: str, is_local: bool, token: str | None) -> Access:
        """Returns the rules for an address.

        Raises:
            SettingError: Other machines reach the address and there is no token, or the token is too easily guessed.
        """
        if token is None and not is_local:
            raise SettingError(
                f"other machines reach the address {host}, so a token is needed: set PENGUIN_CONSOLE_TOKEN to the "
                "output of: python3 -c 'import secrets; print(secrets.token_urlsafe())'"
            )
        if token is not None and (len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.isprintable()):
            raise SettingError(
                f"the token has {len(token)} characters; it needs at least {MIN_TOKEN_CHARS}, letters and digits of "
                "ASCII: python3 -c 'import secrets; print(secrets.token_urlsafe())' prints one"
            )
        return cls(host.lower(), token)

    def refusal(self, path: str, headers: Headers) -> tuple[int, str] | None:
        """Returns status and reason if a request is refused."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_ours(host):
            return 421, f"the host {shortened(host)!r} is not this console: open it by the address that it printed"
        if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return 403, f"requests from {shortened(origin)!r} are refused"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return 403, "requests from other sites are refused"
        is_open = path == _OPEN_PATHS[0] or path.startswith(_OPEN_PATHS[1])
        if self.token is None or is_open:
            return None
        kind, _, token = headers.get("authorization", "").partition(" ")
        # Bytes, because compare_digest refuses other characters than ASCII; headers are Latin-1.
        if kind.lower() != "bearer" or not hmac.compare_digest(token.encode("latin-1"), self.token.encode()):
            return 401, "the token is missing or wrong"
        return None

    def _is_ours(self, host: str) -> bool:
        """Returns whether a Host header names this machine; numbers do, because only a name can be made to lead here.

        The port is not compared: an SSH tunnel may have another.
        """
        name = _without_port(host.lower())
        own = socket.gethostname().lower()
        if name in {"localhost", self.host, own, f"{own}.local"}:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.token is not None or address.is_loopback


class Guard:
    """Middleware: refuses requests that break the rules, and sets the headers of every response."""

    def __init__(self, app: ASGIApp, access: Access):
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = self._access.refusal(scope["path"], Headers(scope=scope))
        app = self._app if refusal is None else JSONResponse({"error": refusal[1]}, refusal[0])
        await app(scope, receive, send_with_headers)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]

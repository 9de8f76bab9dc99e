"""Who may use the console: rules of hosts, origins and tokens, and what the command refuses to start."""

import pytest
from starlette.datastructures import Headers

pytest.importorskip("rclpy", reason="needs ROS 2")

from penguin_models.errors import PenguinError, SettingError
from penguin_ros.console.guard import Access
from penguin_ros.console.server import ConsoleServer

TOKEN = "0123456789abcdef"
LOCAL, SHARED = Access("127.0.0.1", None), Access("0.0.0.0", TOKEN)
OURS = {"host": "127.0.0.1:8010"}


@pytest.mark.parametrize(
    ("access", "path", "headers", "status"),
    [
        (LOCAL, "/events", OURS, None),
        (LOCAL, "/events", {"host": "localhost:9000"}, None),  # the other end of an SSH tunnel
        (LOCAL, "/events", {"host": "[::1]:8010"}, None),
        (LOCAL, "/events", OURS | {"origin": "http://127.0.0.1:8010", "sec-fetch-site": "same-origin"}, None),
        (LOCAL, "/", {"host": "attacker.example:8010"}, 421),  # DNS rebinding, the page included
        (LOCAL, "/events", {"host": "127.0.0.1.attacker.example"}, 421),
        (LOCAL, "/events", {"host": "192.168.1.7:8010"}, 421),
        (LOCAL, "/events", {}, 421),
        (LOCAL, "/events", OURS | {"origin": "http://attacker.example"}, 403),
        (LOCAL, "/events", OURS | {"origin": "http://127.0.0.1:3000"}, 403),  # another page of this machine
        (LOCAL, "/events", OURS | {"origin": "null"}, 403),
        (LOCAL, "/picture", OURS | {"sec-fetch-site": "cross-site"}, 403),  # an <img> elsewhere sends no Origin
        (LOCAL, "/picture", OURS | {"sec-fetch-site": "same-site"}, 403),
        (SHARED, "/", {"host": "192.168.1.7:8010"}, None),
        (SHARED, "/page/console.js", {"host": "192.168.1.7:8010"}, None),
        (SHARED, "/events", {"host": "192.168.1.7:8010"}, 401),
        (SHARED, "/events", {"host": "192.168.1.7:8010", "authorization": f"Bearer {TOKEN}"}, None),
        (SHARED, "/events", {"host": "192.168.1.7:8010", "authorization": f"Bearer {TOKEN}x"}, 401),
        (SHARED, "/events", {"host": "192.168.1.7:8010", "authorization": "Bearer \xe9"}, 401),
        (SHARED, "/events", {"host": "192.168.1.7:8010", "authorization": TOKEN}, 401),
        (SHARED, "/events", {"host": "attacker.example", "authorization": f"Bearer {TOKEN}"}, 421),
        (Access("robot.lab", TOKEN), "/", {"host": "Robot.Lab:8010"}, None),
    ],
)
def test_requests(access, path, headers, status):
    refusal = access.refusal(path, Headers(headers))
    assert (refusal and refusal[0]) == status


@pytest.mark.parametrize(
    ("host", "token", "message"),
    [
        ("0.0.0.0", None, "a token is needed: set PENGUIN_CONSOLE_TOKEN"),
        ("::", None, "a token is needed"),
        ("127.0.0.1", "short", "the token has 5 characters; it needs at least 16"),
        ("0.0.0.0", "passwörter-mit-umlaut", "letters and digits of ASCII"),
        ("no such host", None, "address 'no such host' cannot be used"),
    ],
)
def test_an_open_console_is_not_started(host, token, message):
    with pytest.raises(PenguinError, match=message) as caught:
        ConsoleServer("/penguin", host, 0, token)
    assert isinstance(caught.value, SettingError) or "cannot be used" in message


def test_a_local_console_needs_no_token():
    server = ConsoleServer("/penguin", "127.0.0.1", 0, None)
    assert server.is_local and server.address == f"http://127.0.0.1:{server.port}/"
    server.close()

"""Who may use the console: rules of hosts, origins and tokens, and what the command refuses to start."""

import http.client
import threading
from types import SimpleNamespace

import pytest
from starlette.datastructures import Headers

pytest.importorskip("rclpy", reason="needs ROS 2")

from penguin_models.errors import PenguinError, SettingError
from penguin_ros.console.app import Console
from penguin_ros.console.guard import Access
from penguin_ros.console.hub import Hub
from penguin_ros.console.pictures import Pictures
from penguin_ros.console.server import ConsoleServer
from penguin_ros.web_server import WebServer

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


def status_of(port, path, headers, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST" if body is not None else "GET", path, body, headers)
    reply = connection.getresponse()
    assert "default-src 'none'" in reply.getheader("Content-Security-Policy")
    connection.close()
    return reply.status


@pytest.fixture
def port():
    """The port of a console without a node."""
    pictures = Pictures(lambda camera, stamp_ns: None, lambda camera, err: None)
    robot = SimpleNamespace(pictures=pictures, alert_pictures=(), stop_watch=lambda number: None)
    server = WebServer(lambda port: Console(robot, Hub({})).app(SHARED), "127.0.0.1", 0, 10)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield server.port
    server.stop()
    thread.join()
    pictures.close()


def test_others_are_refused_and_bad_requests_too(port):
    ours = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    for path, headers, body, status in (
        ("/", {}, None, 200),
        ("/page/console.css", {}, None, 200),
        ("/page/../app.py", {}, None, 404),
        ("/page/app.py", {}, None, 404),
        ("/events", {}, None, 401),
        ("/events", ours | {"Host": "attacker.example"}, None, 421),
        ("/ask", ours | {"Origin": "http://attacker.example"}, "{}", 403),
        ("/ask", ours | {"Content-Type": "text/plain"}, "{}", 415),
        ("/ask", ours, "{}", 400),
        ("/ask", ours, '{"question": "%s"}' % ("x" * 20_000), 400),
        ("/ask", ours, " " * 200_000, 413),
        ("/watch", ours, '{"condition": "x", "threshold": 2}', 400),
        ("/watch", ours, '{"condition": "x", "period_s": NaN}', 400),
        ("/watch/stop", ours, '{"id": 5}', 200),
        ("/picture?camera=/x", ours, None, 404),
        ("/picture?camera=/x&stamp=-1", ours, None, 400),
        ("/thumbnail?camera=/x&stamp=1", ours, None, 404),
        ("/alert?id=" + "9" * 50, ours, None, 400),
    ):
        assert status_of(port, path, headers, body) == status, path

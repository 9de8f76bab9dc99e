"""Servers of the OpenAI API in the test process: ours, with any answerer, and one that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace


@contextmanager
def running(answerer, limits=None, port=0, model="tiny", **options):
    """Runs our server in a thread; yields its address and a function that kills it as the kernel would."""
    import uvicorn

    from penguin_engine.server.app import create_app
    from penguin_engine.server.limits import Limits

    listening = socket.create_server(("127.0.0.1", port))
    app = create_app(answerer, model, limits or Limits(), **options)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", timeout_graceful_shutdown=1))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(server.serve([listening]),))
    thread.start()

    def abort():
        for connection in list(server.server_state.connections):
            connection.transport.abort()

    def kill():
        loop.call_soon_threadsafe(abort)
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()

    port = listening.getsockname()[1]
    try:
        yield SimpleNamespace(address=f"http://127.0.0.1:{port}", port=port, kill=kill)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
        loop.close()


def chunk(text="", finish=None, logprobs=None, **fields):
    """Returns an event of a stream."""
    delta = {"content": text} | fields
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
    return json.dumps({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})


class Misbehaving:
    """Answers each request in turn as its script says, and remembers the bodies.

    A step is a status, or a status with headers and a message; or a list of what a stream sends: events, "hang" (until
    the client goes away), or "cut" (the connection is reset). After the last step the answer is "fine".
    """

    def __init__(self, *steps, models=("m",)):
        self.steps, self.bodies, self.gone = list(steps), [], threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                content = {"object": "list", "data": [{"id": name, "object": "model"} for name in models]}
                self._send(200, {}, content)

            def do_POST(self):
                owner.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                step = owner.steps.pop(0) if owner.steps else [chunk("fine", "stop")]
                if isinstance(step, list):
                    self._stream(step)
                    return
                status, headers, message = step if isinstance(step, tuple) else (step, {}, "not now")
                self._send(status, headers, {"error": {"message": message, "code": headers.get("code")}})

            def _send(self, status, headers, content):
                body = json.dumps(content).encode()
                self.send_response(status)
                for name, value in (
                    {"content-type": "application/json", "content-length": len(body)} | headers
                ).items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(body)

            def _stream(self, events):
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for event in events:
                    if event == "hang":
                        self._hang()
                    if event in ("hang", "cut"):
                        self.connection.shutdown(socket.SHUT_RDWR)
                        self.close_connection = True
                        return
                    data = f"data: {event}\n\n".encode()
                    self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.write(b"0\r\n\r\n")

            def _hang(self):
                self.connection.settimeout(20)
                while self.connection.recv(1000):
                    pass
                owner.gone.set()

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,)).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def free_port():
    """Returns a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return opened.getsockname()[1]

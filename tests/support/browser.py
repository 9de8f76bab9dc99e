"""Renders pages in an installed Chromium, and uses them; tests that need it are skipped if there is none."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from time import monotonic

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]


def dump(address, profile):
    """Returns the page as HTML after its scripts have run; `profile` is a new folder for the browser."""
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}"]
    command += ["--virtual-time-budget=2000", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


class Page:
    """A page in a Chromium of its own, driven over the DevTools protocol through pipes."""

    def __init__(self, profile, size=(1440, 900), dark=False, phone=False):
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        # Chromium reads commands from descriptor 3 and writes to 4. Bash moves ours there; dash knows but one digit.
        move = ["bash", "-c", f'exec 3<&{to_read} 4>&{to_write}; exec "$@"', "bash", *command]
        with Path(os.devnull).open("w") as null:
            self.process = subprocess.Popen(move, pass_fds=(to_read, to_write), stdout=null, stderr=null)
        os.close(to_read)
        os.close(to_write)
        self._number, self._buffer, self._session, self.errors = 0, b"", None, []
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(item["targetId"] for item in targets if item["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method, **parameters):
        """Calls a method of the protocol and returns its result; what the page logs as an error is collected."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._receive()
            if reply.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(reply["params"])
            if reply.get("id") == self._number:
                assert "error" not in reply, reply
                return reply["result"]

    def _receive(self):
        while b"\0" not in self._buffer:
            part = os.read(self._from, 1 << 20)
            assert part, "Chromium ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, address):
        self.call("Page.navigate", url=address)

    def evaluate(self, script):
        """Returns the value of an expression; promises are awaited."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition, patience_s=60):
        """Waits until an expression is true and returns its value."""
        deadline_s = monotonic() + patience_s
        look = f"(() => {{ try {{ return {condition}; }} catch {{ return null; }} }})()"
        wait = "new Promise((done) => setTimeout(done, 30))"
        while not (value := self.evaluate(look)):
            assert monotonic() < deadline_s, f"{condition} was not true within {patience_s} s; errors: {self.errors}"
            self.evaluate(wait)
        return value

    def click(self, selector):
        """Clicks into the middle of an element, with the mouse."""
        place = f"""(() => {{ const e = document.querySelector({json.dumps(selector)});
            e.scrollIntoView({{block: "center"}}); const r = e.getBoundingClientRect();
            return [r.left + r.width / 2, r.top + r.height / 2]; }})()"""
        x, y = self.evaluate(place)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector, text):
        """Clicks an element and types into it."""
        self.click(selector)
        self.call("Input.insertText", text=text)

    def screenshot(self, path, whole=False):
        """Writes the visible part as PNG, or the whole page."""
        options = {"captureBeyondViewport": whole}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **options)["data"]))

"""SIGTERM and SIGHUP: commands that write for a long time clean up and end as after Ctrl-C."""

import importlib.util
import os
import signal
import sys
import threading
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from penguin_models.errors import EngineError
from penguin_ros.cli.stopping import stopping_like_ctrl_c

SIGNALS = [signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def outside():
    """Signals that no command handles fail the test instead of ending the test process."""

    def fail(number, frame):
        raise AssertionError(f"signal {number} was not handled")

    before = {number: signal.signal(number, fail) for number in SIGNALS}
    yield fail
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_interrupts_and_later_ones_spare_the_clean_up(number, outside):
    cleaned = []
    with pytest.raises(KeyboardInterrupt), stopping_like_ctrl_c():
        try:
            send(number)
        finally:
            for again in SIGNALS:
                send(again)
            cleaned.append(True)
    assert cleaned and [signal.getsignal(again) for again in SIGNALS] == [outside] * 2


def test_a_signal_that_nohup_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stopping_like_ctrl_c():
        send(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("command", ["export", "quantize", "bench engine"])
def test_a_stopped_command_leaves_no_files(cli, checkpoint, tmp_path, monkeypatch, command):
    monkeypatch.setattr("penguin_engine.export.checkpoint_to_onnx.build_decoder", lambda *args: send(signal.SIGTERM))
    place = "--work" if command == "bench engine" else "--out"
    more = ["--variant", "onnx:float32"] if command == "bench engine" else []
    result = cli(*command.split(), "--model", checkpoint, place, tmp_path / "out", *more)
    assert (result.code, result.err) == (130, "")
    assert [path for path in tmp_path.rglob("*") if path != tmp_path / "out"] == []


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stopped_build_is_cancelled(cli, tmp_path, monkeypatch, number):
    waiting, result_of = threading.Event(), Future.result

    def result_and_tell(self, timeout=None):
        waiting.set()
        return result_of(self, timeout)

    def build(folder, device, limits, precision, workspace_mib, progress, cancelled):
        assert waiting.wait(10)
        send(number)
        assert cancelled.__self__.wait(10)
        raise EngineError("was cancelled")

    module = SimpleNamespace(build=build)
    monkeypatch.setitem(sys.modules, "penguin_engine.runtimes.tensorrt.build", module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(Future, "result", result_and_tell)
    result = cli("build", tmp_path)
    assert (result.code, result.err.strip()) == (1, "error: was cancelled")

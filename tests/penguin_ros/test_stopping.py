"""Signals: Ctrl-C ends commands without a traceback; SIGTERM and SIGHUP are like it where there is a clean-up."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from PIL import Image

from penguin_models.errors import EngineError
from penguin_ros.stopping import StopFlag, quiet_ctrl_c, stopping_like_ctrl_c

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def outside():
    """Signals that no command handles fail the test instead of ending the test process."""

    def fail(number, frame):
        raise AssertionError(f"signal {number} was not handled")

    before = {number: signal.signal(number, fail) for number in SIGNALS[1:]}
    yield fail
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_interrupts_and_later_ones_spare_the_clean_up(number):
    cleaned, before = [], [signal.getsignal(again) for again in SIGNALS]
    with pytest.raises(KeyboardInterrupt), stopping_like_ctrl_c():
        try:
            send(number)
        finally:
            for again in SIGNALS:
                send(again)
            cleaned.append(True)
    assert cleaned and [signal.getsignal(again) for again in SIGNALS] == before


def test_a_signal_that_nohup_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stopping_like_ctrl_c():
        send(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_wait_ends_at_a_signal_that_another_thread_received():
    flag = StopFlag()
    signal.signal(signal.SIGTERM, lambda *_: flag.set())
    sender = threading.Timer(0.05, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM))
    sender.start()
    assert flag.wait(60)
    sender.join()


@pytest.mark.parametrize("command", ["export", "quantize", "bench engine"])
def test_a_stopped_command_leaves_no_files(cli, checkpoint, tmp_path, monkeypatch, command):
    monkeypatch.setattr("penguin_engine.export.checkpoint_to_onnx.build_decoder", lambda *args: send(signal.SIGTERM))
    place = "--work" if command == "bench engine" else "--out"
    more = ["--variant", "onnx:float32"] if command == "bench engine" else []
    result = cli(*command.split(), "--model", checkpoint, place, tmp_path / "out", *more)
    assert (result.code, result.messages) == (130, [])
    assert [path for path in tmp_path.rglob("*") if path != tmp_path / "out"] == []


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stopped_build_is_cancelled(cli, tmp_path, monkeypatch, number):
    waiting, result_of = threading.Event(), Future.result

    def result_and_tell(self, timeout=None):
        waiting.set()
        return result_of(self, timeout)

    def build(folder, flavour, device, targets, limits, precision, workspace_mib, progress, cancelled):
        assert waiting.wait(10)
        send(number)
        assert cancelled.__self__.wait(10)
        raise EngineError("was cancelled")

    module = SimpleNamespace(build=build)
    monkeypatch.setitem(sys.modules, "penguin_engine.runtimes.tensorrt.build", module)
    monkeypatch.setattr("penguin_engine.runtimes.tensorrt.flavour.load", lambda name: name)
    monkeypatch.setattr(Future, "result", result_and_tell)
    result = cli("build", tmp_path, "--flavour", "rtx")
    assert (result.code, result.err.strip()) == (1, "error: was cancelled")


INTERRUPTED = {
    "import": "os.kill(os.getpid(), signal.SIGINT)",
    # Python ignores what a destructor or a callback of the import system raises.
    "destructor": "class Ended:\n def __del__(self): os.kill(os.getpid(), signal.SIGINT)\nEnded()",
    # Libraries in C turn an interrupt into an error of their own.
    "library": "try: os.kill(os.getpid(), signal.SIGINT)\nexcept KeyboardInterrupt: raise ImportError('no symbols')",
}


@pytest.mark.parametrize(
    ("where", "module", "command"),
    [
        ("import", "typer", ["--help"]),
        ("import", "tokenizers", ["ask", "--model", "{checkpoint}", "--image", "{image}", "What?"]),
        ("destructor", "rclpy", ["node", "--model", "{checkpoint}"]),
        ("library", "rclpy", ["demo"]),
        ("import", "ruamel", ["evaluate", "bags", "bag", "--questions", "q.jsonl", "--model", "{checkpoint}"]),
    ],
)
def test_ctrl_c_during_an_import_ends_a_command_without_a_traceback(checkpoint, tmp_path, where, module, command):
    (tmp_path / f"{module}.py").write_text(f"import os, signal, time\n{INTERRUPTED[where]}\ntime.sleep(60)\n")
    Image.new("RGB", (56, 56)).save(tmp_path / "image.png")
    command = [part.format(checkpoint=checkpoint, image=tmp_path / "image.png") for part in command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "penguin_ros.cli.main", *command],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_command_that_handles_ctrl_c_ends_as_it_chooses():
    with quiet_ctrl_c(), contextlib.suppress(KeyboardInterrupt):
        send(signal.SIGINT)
    with pytest.raises(SystemExit, match="1"), quiet_ctrl_c():
        try:
            send(signal.SIGINT)
        except KeyboardInterrupt:
            sys.exit(1)

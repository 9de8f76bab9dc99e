"""Runs real nodes with a scripted runtime, because no test may depend on the speed and answers of a model.

It imports everything once and forks a process for each node, because the imports take longer than a start. A request
is a line of JSON on standard input:

    {"script": {"token_s": 0.1}, "args": ["-p", ...], "log": PATH, "folder": PATH, "environment": {...}}

The answer on standard output is the number of the process; its exit code is written to PATH.exit when it has ended.
SIGUSR1 ends the pause of a node's answers.
"""

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from scripted_runtime import ScriptedRuntime

from penguin_engine.scene.worker import SceneWorker
from penguin_models.errors import CheckpointError
from penguin_models.processor import Processor
from penguin_ros.nodes.vlm_main import run

CHECKPOINT = Path(__file__).parents[1] / "data" / "reference" / "checkpoint"
_offer = SceneWorker.offer


def _timed_offer(worker, camera, stamp_ns, load):
    accepted = _offer(worker, camera, stamp_ns, load)
    sys.stderr.write(f"image handed over after {time.time_ns() - stamp_ns} ns\n")
    return accepted


def run_node(script, args):
    """Runs a node and ends the process."""
    load_s, pauses = script.pop("load_s", 0), []

    def load(settings):
        if settings["model"] == "missing":
            raise CheckpointError("model missing does not exist")
        sys.stderr.write("the model is being loaded\n")
        time.sleep(load_s)
        processor = Processor.from_pretrained(CHECKPOINT)
        runtime = ScriptedRuntime(processor, **script)
        pauses.append(runtime.pause_ends)
        return runtime, processor

    if script.pop("time_images", False):
        SceneWorker.offer = _timed_offer
    signal.signal(signal.SIGUSR1, lambda *_: [pause.set() for pause in pauses])
    run(["scripted_node", "--ros-args", *args], load)


def become_node(request):
    """Turns this forked process into a new one that runs a node."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in paths if path and path not in sys.path]
    for file, flags, numbers in ((os.devnull, os.O_RDONLY, (0,)), (request["log"], os.O_WRONLY | os.O_CREAT, (1, 2))):
        opened = os.open(file, flags)
        for number in numbers:
            os.dup2(opened, number)
        os.close(opened)
    run_node(request["script"], request["args"])


def start(request):
    """Forks a process that forks the node, says its number, and waits for its end."""
    if os.fork():
        return
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if not (node := os.fork()):
            become_node(request)
        sys.stdout.write(f"{node}\n")
        sys.stdout.flush()
        code = os.waitstatus_to_exitcode(os.waitpid(node, 0)[1])
        partial = Path(f"{request['log']}.partial")
        partial.write_text(str(code))
        partial.rename(f"{request['log']}.exit")
    except Exception:  # noqa: BLE001 - neither process may go on as the one that forked it
        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test process, which then ends the nodes
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait for nodes
    for line in sys.stdin:
        start(json.loads(line))

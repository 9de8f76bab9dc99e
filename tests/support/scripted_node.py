"""Runs the real node with a scripted runtime, because no test may depend on the speed and answers of a model.

SIGUSR1 ends the pause of its answers.

python scripted_node.py '{"token_s": 0.1}' --ros-args ...
"""

import json
import signal
import sys
import time
from pathlib import Path

from scripted_runtime import ScriptedRuntime

from penguin_engine.scene.worker import SceneWorker
from penguin_models.errors import CheckpointError
from penguin_models.processor import Processor
from penguin_ros.nodes.vlm_main import run

CHECKPOINT = Path(__file__).parents[1] / "data" / "reference" / "checkpoint"
_script = json.loads(sys.argv[1])
_load_s = _script.pop("load_s", 0)
_offer = SceneWorker.offer
_pauses = []


def _open(settings):
    if settings["model"] == "missing":
        raise CheckpointError("model missing does not exist")
    sys.stderr.write("the model is being loaded\n")
    time.sleep(_load_s)
    processor = Processor.from_pretrained(CHECKPOINT)
    runtime = ScriptedRuntime(processor, **_script)
    _pauses.append(runtime.pause_ends)
    return runtime, processor


def _timed_offer(worker, camera, stamp_ns, load):
    accepted = _offer(worker, camera, stamp_ns, load)
    sys.stderr.write(f"image handed over after {time.time_ns() - stamp_ns} ns\n")
    return accepted


if __name__ == "__main__":
    if _script.pop("time_images", False):
        SceneWorker.offer = _timed_offer
    signal.signal(signal.SIGUSR1, lambda *_: [pause.set() for pause in _pauses])
    run(sys.argv[1:], _open)

"""The node with a scripted runtime, as a process: python scripted_node.py '{"token_s": 0.1}' --ros-args ..."""

import json
import sys
import time
from pathlib import Path

from scripted_runtime import ScriptedRuntime

from penguin_models.errors import CheckpointError
from penguin_models.processor import Processor
from penguin_ros.nodes.vlm_main import main

CHECKPOINT = Path(__file__).parents[1] / "data" / "reference" / "checkpoint"
_script = json.loads(sys.argv[1])
_load_s = _script.pop("load_s", 0)


def _open(settings):
    if settings["model"] == "missing":
        raise CheckpointError("model missing does not exist")
    sys.stderr.write("the model is being loaded\n")
    time.sleep(_load_s)
    processor = Processor.from_pretrained(CHECKPOINT)
    return ScriptedRuntime(processor, **_script), processor


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], _open))

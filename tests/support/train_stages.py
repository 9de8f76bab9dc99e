"""Trains two stages one after the other in the processes of torchrun; the second by `penguin-vl train --resume`.

Processes that have imported everything train another stage in a second; new ones need many.
"""

import os
import sys

import torch.distributed as dist
from accelerate.state import AcceleratorState

from penguin_ros.cli.main import main
from penguin_ros.cli.output import stderr
from penguin_training.run.build_run import build_run
from penguin_training.run.loop import train
from penguin_training.run.parallel import end_processes
from penguin_training.settings.stage_file import load_settings

first, second = sys.argv[1:]
train(build_run(load_settings(first), resume=False, console=stderr))
end_processes()
AcceleratorState._reset_state(reset_partial_state=True)
rank, world = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
# torchrun's store still holds the addresses of the first group.
dist.init_process_group("gloo", init_method=f"file://{second}.processes", rank=rank, world_size=world)
sys.argv = ["penguin-vl", "train", second, "--resume"]
main()

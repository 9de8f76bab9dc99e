"""How vLLM reads the videos of Penguin-VL: sampled and dated as everywhere else in this package."""

from __future__ import annotations

from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from vllm.multimodal.video import VIDEO_LOADER_REGISTRY, VideoLoader

from penguin_engine.vllm_plugin import VIDEO_PROCESSOR
from penguin_models.errors import MediaError
from penguin_models.media import FPS, MAX_FRAMES, VideoFile
from penguin_models.types import UInt8Array

_VLLM_NUM_FRAMES = 32
"""What vLLM passes if nobody chose a number of frames."""


@VIDEO_LOADER_REGISTRY.register("penguin_vl", video_processor=VIDEO_PROCESSOR)
class PenguinVideoLoader(VideoLoader):
    """Samples at regular times, with the times that the file says."""

    @classmethod
    def load_bytes(
        cls,
        data: bytes,
        num_frames: int = _VLLM_NUM_FRAMES,
        fps: float = FPS,
        max_frames: int = MAX_FRAMES,
        **others: Any,
    ) -> tuple[UInt8Array, dict[str, Any]]:
        """Returns the frames of a video, uint8 [frames, H, W, 3], and their `timestamps` in seconds.

        Arguments are those of vLLM's `--media-io-kwargs '{"video": {"fps": 1, "max_frames": 180}}'`.

        Raises:
            MediaError: The video cannot be read, or an argument is unknown.
        """
        if num_frames not in (_VLLM_NUM_FRAMES, -1):
            others["num_frames"] = num_frames
        if others:
            named = ", ".join(sorted(others))
            raise MediaError(f"media_io_kwargs of a video may have fps and max_frames, not {named}; leave it out")
        with NamedTemporaryFile(suffix=".video") as file:
            file.write(data)
            file.flush()
            try:
                frames = list(VideoFile(file.name, fps, max_frames))
            except MediaError as err:
                raise MediaError(str(err).replace(f"video {file.name}", "the video")) from err
        timestamps = [frame.time_s for frame in frames]
        return np.stack([frame.rgb for frame in frames]), {"timestamps": timestamps, "do_sample_frames": False}

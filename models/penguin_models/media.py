"""Images and videos from files; the one module to import for them.

`image_files.py` and `video_files.py` read them, `clips.py` says what a clip is.
"""

from penguin_models.clips import (
    FPS,
    MAX_FRAMES,
    Clip,
    ClipFrame,
    at_first_size,
    check_sampling,
    duration,
    sample_uniformly,
    warn_once,
)
from penguin_models.decoding import MAX_IMAGE_PIXELS
from penguin_models.errors import MediaError
from penguin_models.image_files import load_image, open_image, orientation, to_rgb, turned
from penguin_models.video_files import VideoFile

__all__ = [
    "FPS",
    "MAX_FRAMES",
    "MAX_IMAGE_PIXELS",
    "Clip",
    "ClipFrame",
    "MediaError",
    "VideoFile",
    "at_first_size",
    "check_sampling",
    "duration",
    "load_image",
    "open_image",
    "orientation",
    "sample_uniformly",
    "to_rgb",
    "turned",
    "warn_once",
]

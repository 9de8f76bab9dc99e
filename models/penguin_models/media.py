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
from penguin_models.errors import MediaError
from penguin_models.image_files import DECODING_ERRORS, EXIF_ORIENTATION, load_image, open_image, to_rgb
from penguin_models.video_files import VideoFile

__all__ = [
    "DECODING_ERRORS",
    "EXIF_ORIENTATION",
    "FPS",
    "MAX_FRAMES",
    "Clip",
    "ClipFrame",
    "MediaError",
    "VideoFile",
    "at_first_size",
    "check_sampling",
    "duration",
    "load_image",
    "open_image",
    "sample_uniformly",
    "to_rgb",
    "warn_once",
]

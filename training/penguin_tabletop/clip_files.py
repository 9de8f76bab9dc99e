"""Pictures and clips as files; clips are folders as frame_folder.py reads them, or MP4."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from penguin_models.errors import TabletopError
from penguin_models.types import Size, UInt8Array

JPEG_QUALITY = 92


def save_image(path: Path, rgb: UInt8Array) -> None:
    """Writes a picture or a mask; the ending of the name chooses the format. There is never half a file."""
    part = path.with_name(f".{path.name}.part")
    options = {"quality": JPEG_QUALITY, "subsampling": 0} if path.suffix == ".jpg" else {}
    Image.fromarray(rgb).save(part, "JPEG" if path.suffix == ".jpg" else "PNG", **options)
    part.replace(path)


def save_frames(folder: Path, frames: Sequence[UInt8Array], stamps_s: Sequence[float], ending: str) -> None:
    """Writes a clip as a folder; each file is named for its time in milliseconds."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for frame, stamp in zip(frames, stamps_s, strict=True):
        save_image(part / f"{round(stamp * 1000):08d}{ending}", frame)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def save_mp4(path: Path, frames: Sequence[UInt8Array], fps: float) -> None:
    """Writes a clip as H.264.

    Raises:
        TabletopError: width or height is odd, which the format cannot hold.
    """
    size = Size(frames[0].shape[0], frames[0].shape[1])
    check_mp4_size(size)
    part = path.with_name(f".{path.name}.part")
    with av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = size.width, size.height, "yuv420p"
        stream.options = {"crf": "18", "threads": "1"}
        for rgb in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")))
        container.mux(stream.encode())
    part.replace(path)


def check_mp4_size(size: Size) -> None:
    """Raises TabletopError where MP4 cannot hold images of this size."""
    if size.width % 2 or size.height % 2:
        raise TabletopError(f"MP4 needs an even width and height, not {size.width}x{size.height}; or write frames")

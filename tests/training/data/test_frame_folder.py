"""A folder of frames as a clip: its times, its sampling and its errors."""

import numpy as np
import pytest
from PIL import Image

from penguin_models.errors import MediaError
from penguin_training.data.frame_folder import FrameFolder


@pytest.fixture
def folder(tmp_path):
    def make(times_s):
        for i, time_s in enumerate(times_s):
            Image.fromarray(np.full((8, 10, 3), i, np.uint8)).save(tmp_path / f"{round(1000 * time_s):08d}.png")
        return tmp_path

    return make


def test_all_frames_with_their_times(folder):
    path = folder([0.0, 0.4, 1.0])
    (path / "notes.txt").write_text("no frame")
    clip = FrameFolder(path, fps=10)
    for _ in range(2):  # it can be read again
        assert [(f.time_s, int(f.rgb[0, 0, 0])) for f in clip] == [(0.0, 0), (0.4, 1), (1.0, 2)]


def test_frames_are_sampled_at_the_requested_rate(folder):
    path = folder([5 + 0.25 * i for i in range(12)])
    assert [f.time_s for f in FrameFolder(path, fps=1)] == [5, 6, 7]
    assert [f.time_s for f in FrameFolder(path, fps=2)] == [5, 5.5, 6, 6.5, 7, 7.5]
    assert [f.time_s for f in FrameFolder(path, fps=4, max_frames=3)] == [5, 6.25, 7.75]


def test_missing_and_broken_frames_are_reported(tmp_path, folder):
    with pytest.raises(MediaError, match="is not a folder of frames"):
        FrameFolder(tmp_path / "none")
    with pytest.raises(MediaError, match="holds no frames named by their milliseconds"):
        FrameFolder(tmp_path)
    path = folder([0, 1])
    with pytest.raises(MediaError, match="fps 0"):
        FrameFolder(path, fps=0)
    (path / "00001000.png").write_bytes(b"")
    with pytest.raises(MediaError, match="is empty"):
        list(FrameFolder(path))

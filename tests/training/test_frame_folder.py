"""A folder of frames is a clip: its times, its sampling, and what can be wrong with it."""

import json

import numpy as np
import pytest
from PIL import Image

from penguin_models.errors import MediaError
from penguin_training.frame_folder import FrameFolder


@pytest.fixture
def folder(tmp_path):
    def make(times):
        for i in range(len(times)):
            Image.fromarray(np.full((8, 10, 3), i, np.uint8)).save(tmp_path / f"{i:02d}.png")
        (tmp_path / "times.json").write_text(json.dumps(times))
        return tmp_path

    return make


def test_all_frames_with_their_times(folder):
    clip = FrameFolder(folder([0.0, 0.4, 1.0]), fps=10)
    for _ in range(2):  # it can be read again
        assert [(f.time_s, int(f.rgb[0, 0, 0])) for f in clip] == [(0.0, 0), (0.4, 1), (1.0, 2)]


def test_frames_are_taken_at_the_rate_that_is_asked_for(folder):
    path = folder([5 + 0.25 * i for i in range(12)])
    assert [f.time_s for f in FrameFolder(path, fps=1)] == [5, 6, 7]
    assert [f.time_s for f in FrameFolder(path, fps=2)] == [5, 5.5, 6, 6.5, 7, 7.5]
    assert [f.time_s for f in FrameFolder(path, fps=4, max_frames=3)] == [5, 6.25, 7.75]


def test_times_by_name(folder):
    path = folder([0, 1])
    (path / "times.json").write_text(json.dumps({"01.png": 3.5, "00.png": 2.5}))
    assert [f.time_s for f in FrameFolder(path)] == [2.5, 3.5]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0], "a number of seconds for each of its 2 frames"),
        ([0, "1"], "a number of seconds"),
        ([0, float("nan")], "a number of seconds"),
        ([1, 1], "must increase"),
        ({"00.png": 1}, "a number of seconds"),
    ],
)
def test_wrong_times(folder, times, message):
    path = folder([0, 1])
    (path / "times.json").write_text(json.dumps(times))
    with pytest.raises(MediaError, match=message):
        FrameFolder(path)


def test_what_is_missing(tmp_path, folder):
    with pytest.raises(MediaError, match="is not a folder of frames"):
        FrameFolder(tmp_path / "none")
    with pytest.raises(MediaError, match="has no image files"):
        FrameFolder(tmp_path)
    path = folder([0, 1])
    (path / "times.json").unlink()
    with pytest.raises(MediaError, match=r"needs a times\.json"):
        FrameFolder(path)
    with pytest.raises(MediaError, match="fps 0"):
        FrameFolder(path, fps=0)

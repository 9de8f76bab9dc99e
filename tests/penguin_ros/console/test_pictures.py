"""The pictures that the console keeps, and for how long."""

import io
import threading

import numpy as np
import pytest
from PIL import Image

from penguin_models.types import Frame
from penguin_ros.console import pictures as module
from penguin_ros.console.pictures import Pictures

CAMERA, SECOND = "/image", 10**9


@pytest.fixture
def show(monkeypatch):
    """Returns the pictures and a function that shows them a frame, and waits until it is there."""
    monkeypatch.setattr(module, "_PERIOD_S", 0.0)
    arrived, errors = threading.Semaphore(0), []

    def failed(camera, err):
        errors.append(f"{camera}: {err}")
        arrived.release()

    pictures = Pictures(lambda camera, stamp_ns: arrived.release(), failed)

    def add(stamp_ns, size=(480, 640), rgb=None):
        def load():
            return Frame(np.full((*size, 3), 90, np.uint8) if rgb is None else rgb, stamp_ns, CAMERA)

        pictures.offer(CAMERA, stamp_ns, load)
        assert arrived.acquire(timeout=60)

    yield pictures, add, errors
    pictures.close()


def size(jpeg):
    return Image.open(io.BytesIO(jpeg)).size


def test_pictures_are_scaled_and_found_by_stamp(show):
    pictures, add, _ = show
    assert pictures.newest(CAMERA) is None and pictures.thumbnail(CAMERA, 1) is None
    add(1 * SECOND, (1080, 1920))
    add(2 * SECOND, (30, 40))
    assert pictures.newest(CAMERA).stamp_ns == 2 * SECOND
    assert size(pictures.at(CAMERA, 1 * SECOND + 90_000_000)) == (960, 540)
    assert size(pictures.at(CAMERA, 2 * SECOND)) == (40, 30)
    assert pictures.at(CAMERA, 1 * SECOND + 110_000_000) is None


def test_what_the_node_holds_stays_and_the_rest_leaves(show, monkeypatch):
    pictures, add, _ = show
    monkeypatch.setattr(module, "_RECENT_BYTES", 10_000)
    add(1 * SECOND)
    pictures.keep_caption(CAMERA, 1 * SECOND)
    assert pictures.keep_memory(CAMERA, [0, 1 * SECOND]) == {1 * SECOND}
    for second in range(2, 12):
        add(second * SECOND)
    assert pictures.at(CAMERA, 2 * SECOND) is None and pictures.at(CAMERA, 11 * SECOND)
    assert size(pictures.at(CAMERA, 1 * SECOND)) == (640, 480)
    assert size(pictures.thumbnail(CAMERA, 1 * SECOND)) == (224, 168)
    assert pictures.keep_memory(CAMERA, [1 * SECOND, 11 * SECOND]) == {1 * SECOND, 11 * SECOND}
    assert pictures.keep_memory(CAMERA, [11 * SECOND]) == {11 * SECOND}


def test_a_jump_back_in_time_and_a_bad_frame(show):
    pictures, add, errors = show
    add(9 * SECOND)
    add(5 * SECOND)
    assert pictures.at(CAMERA, 9 * SECOND) is None and pictures.newest(CAMERA).stamp_ns == 5 * SECOND
    add(6 * SECOND, rgb="not pixels")
    add(7 * SECOND)
    assert len(errors) == 1 and errors[0].startswith(CAMERA)
    assert pictures.newest(CAMERA).stamp_ns == 7 * SECOND

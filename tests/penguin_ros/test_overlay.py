"""Boxes drawn into images: their place and colour, and that nothing else changes."""

from __future__ import annotations

import resource

import numpy as np
import pytest
from PIL import Image

from penguin_models.errors import MediaError, WriteError
from penguin_models.grounding import Box, GroundedObject
from penguin_ros.overlay import draw_objects, label_colour, save_overlay


def grounded(label, *box):
    return GroundedObject(label, Box(*box))


def black(height=240, width=320):
    return np.zeros((height, width, 3), np.uint8)


def is_colour(pixels, label):
    return np.all(pixels == label_colour(label), axis=-1)


@pytest.mark.parametrize(
    ("size", "thickness"), [((240, 320), 2), ((120, 160), 2), ((480, 640), 4), ((640, 480), 4), ((1080, 1920), 8)]
)
def test_a_box_is_drawn_at_its_coordinates(size, thickness):
    height, width = size
    image = draw_objects(black(*size), [grounded("cube", 250, 500, 750, 750)])
    x1, y1, x2, y2 = width // 4, height // 2, width * 3 // 4, height * 3 // 4
    edges = is_colour(image, "cube")
    assert edges[y1 : y1 + thickness, x1:x2].all() and edges[y2 - thickness : y2, x1:x2].all()
    assert edges[y1:y2, x1 : x1 + thickness].all() and edges[y1:y2, x2 - thickness : x2].all()
    assert not image[y1 + thickness : y2 - thickness, x1 + thickness : x2 - thickness].any()
    # Outside the box there is only the label, above its left end.
    outside = image.any(axis=-1)
    outside[y1:y2, x1:x2] = False
    rows, columns = outside.nonzero()
    assert rows.max() <= y1 and rows.min() > y1 - height // 4
    assert columns.min() == x1 and columns.max() < x2


def test_a_box_of_the_whole_image_includes_the_last_row_and_column():
    edges = is_colour(draw_objects(black(), [grounded("a", 0, 0, 1000, 1000)]), "a")
    assert edges[-2:].all() and edges[:, -2:].all() and edges[30:, :2].all()  # the label covers the first 30 rows


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (1000, 1000, 1000, 1000), (500, 500, 500, 500), (500, 0, 500, 1000)])
def test_boxes_without_an_area_can_be_drawn(box):
    image = draw_objects(black(), [grounded("a", *box)])
    assert image.shape == (240, 320, 3) and is_colour(image, "a").any()


@pytest.mark.parametrize("size", [(1, 1), (5, 400), (400, 5)])
def test_tiny_images_keep_their_size(size):
    assert draw_objects(black(*size), [grounded("a long label", 100, 100, 900, 900)]).shape == (*size, 3)


def test_a_label_is_written_in_black_above_its_box():
    image = draw_objects(black() + 255, [grounded("cube", 250, 500, 750, 750)])
    above = image[100:120, 80:160]
    assert is_colour(above, "cube").sum() > 100
    assert (above.max(axis=-1) < 100).sum() > 10


def test_a_label_without_room_above_is_drawn_inside_the_box():
    image = draw_objects(black(), [grounded("cube", 250, 0, 750, 500)])
    inside = image[2:118, 82:238].any(axis=-1)
    rows, columns = inside.nonzero()
    assert inside.sum() > 50 and rows.max() < 20 and columns.max() < 60


def test_a_label_without_room_to_the_right_is_moved_left():
    corner = draw_objects(black(), [grounded("a long label", 990, 500, 1000, 600)])
    free = draw_objects(black(), [grounded("a long label", 100, 500, 110, 600)])
    painted = [np.nonzero(image[100:119].any(axis=(0, 2)))[0] for image in (corner, free)]
    assert painted[0].max() == 319 and painted[1].min() == 32
    assert painted[0].min() < 317 - 20  # the box starts at 317
    assert abs(np.ptp(painted[0]) - np.ptp(painted[1])) <= 1


def test_every_object_is_drawn_and_later_ones_are_on_top():
    image = draw_objects(black(), [grounded("a", 250, 500, 500, 750), grounded("b", 500, 500, 1000, 750)])
    both = draw_objects(black(), [grounded("a", 250, 500, 750, 750), grounded("b", 250, 500, 750, 750)])
    assert is_colour(image[150, 80:82], "a").all() and is_colour(image[150, 160:162], "b").all()
    assert is_colour(both[150, 80:82], "b").all()


def test_a_label_has_the_same_colour_in_every_image():
    first = draw_objects(black(), [grounded("red cube", 250, 500, 750, 750)])
    others = [grounded("ball", 0, 0, 100, 100), grounded("Red Cube", 500, 500, 900, 900)]
    second = draw_objects(black(480, 640) + 60, others)
    assert tuple(first[150, 80]) == tuple(second[300, 320]) == label_colour("red cube")
    assert label_colour("ball") != label_colour("red cube")


@pytest.mark.parametrize("label", ["cube", "a", "Überraschung", "杯子", "🙂"])
def test_colours_are_bright(label):
    assert max(label_colour(label)) == 255 and min(label_colour(label)) == 102
    assert draw_objects(black(), [grounded(label, 250, 500, 750, 750)]).any()


def test_the_input_is_unchanged():
    rgb = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    before = rgb.copy()
    rgb.flags.writeable = False
    image = draw_objects(rgb, [grounded("cube", 0, 0, 1000, 1000)])
    assert not np.array_equal(image, before) and not np.shares_memory(image, rgb)
    np.testing.assert_array_equal(rgb, before)


def test_without_objects_the_image_is_unchanged():
    rgb = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(draw_objects(rgb, []), rgb)
    np.testing.assert_array_equal(draw_objects(rgb[::2, ::-1], []), rgb[::2, ::-1])


def test_the_saved_file_holds_the_drawn_image(tmp_path):
    objects = [grounded("cube", 250, 500, 750, 750)]
    save_overlay(tmp_path / "out.png", black(), objects)
    with Image.open(tmp_path / "out.png") as image:
        np.testing.assert_array_equal(np.array(image), draw_objects(black(), objects))


@pytest.mark.parametrize("name", ["missing/out.png", "out.unknown", "out", "."])
def test_a_path_that_cannot_be_written_is_refused(tmp_path, name):
    with pytest.raises(MediaError, match=r"overlay .* cannot be written: \S"):
        save_overlay(tmp_path / name, black(), [])


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "out.webp"])
def test_an_older_picture_survives_a_full_disk(tmp_path, name):
    """The limit of a file's size fails in the middle of writing, as a full disk does."""
    path, noise = tmp_path / name, np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    save_overlay(path, black(), [])
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(WriteError, match=rf"{name} cannot be written: File too large"):
            save_overlay(path, noise, [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_an_image_beyond_the_limits_of_its_format_is_refused(tmp_path):
    with pytest.raises(MediaError, match=r"out\.webp cannot be written"):
        save_overlay(tmp_path / "out.webp", black(4, 20_000), [])

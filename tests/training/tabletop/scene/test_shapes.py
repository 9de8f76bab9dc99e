"""Every kind has a shape that stands on the table."""

import sys

import numpy as np
import pytest

from penguin_models.errors import TabletopError
from penguin_tabletop import bullet
from penguin_tabletop.scene import shapes
from penguin_tabletop.scene.catalogue import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_stands_over_the_origin(kind):
    for variant in {0, KINDS[kind].variants - 1}:
        shape = shapes.shape_of(kind, variant)
        points = np.vstack([part.mesh.vertices for part in shape.parts])
        assert abs(points[:, 2].min()) < 0.008
        assert 0.02 < shape.height < 0.35 and 0.02 < shape.radius < 0.3
        assert np.hypot(shape.hull[:, 0], shape.hull[:, 1]).max() <= shape.radius + 1e-9
        assert sum(len(part.mesh.triangles) for part in shape.parts) < 2000


@pytest.mark.parametrize("kind", [kind for kind, it in KINDS.items() if it.printed])
def test_printed_faces_lie_on_the_front(kind):
    shape = shapes.shape_of(kind)
    top_left, top_right, bottom_right, bottom_left = shape.printed_face
    assert top_left[0] < top_right[0] and bottom_left[0] < bottom_right[0]
    assert top_left[2] > bottom_left[2] > 0 and shape.printed_face[:, 1].min() < 0


def test_odd_shapes_differ_from_each_other():
    outlines = {shapes.shape_of("odd shape", variant).hull.tobytes() for variant in range(0, 1000, 100)}
    assert len(outlines) == 10


def test_missing_pybullet_is_an_error_that_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pybullet", None)
    bullet.load_pybullet.cache_clear()
    for needs_it in (bullet.load_pybullet, bullet.assets_folder, bullet.BulletClient):
        with pytest.raises(TabletopError, match=r"pip install pybullet"):
            needs_it()
    bullet.load_pybullet.cache_clear()

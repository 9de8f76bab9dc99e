"""Shared fixtures: one renderer, and scenes composed by hand."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from penguin_models.types import Size
from penguin_tabletop.render.picture import SceneRenderer
from penguin_tabletop.scene.camera import Camera
from penguin_tabletop.scene.catalogue import COLOURS, TABLES
from penguin_tabletop.scene.scene import Light, Scene, Sensor, Surroundings, Thing, yaw_rotation

SMALL = Size(112, 112)


def pytest_collection_modifyitems(items):
    """Skips the tests of this folder if PyBullet is not installed."""
    if find_spec("pybullet") is None:
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.skip(reason="PyBullet is not installed: pip install pybullet"))


class Maker:
    """Makes minimal cameras, objects and scenes."""

    size = SMALL

    @staticmethod
    def camera(yaw=0.0, pitch=45.0, distance=0.7):
        return Camera((0.0, 0.0, 0.0), distance, np.radians(yaw), np.radians(pitch), 0.0, np.radians(45))

    @staticmethod
    def thing(number, kind="cube", colour="red", position=(0.0, 0.0, 0.0), **changes):
        place = tuple(map(float, position))
        made = Thing(
            number, f"{colour} {kind}", kind, colour, "large", 1.0, 0, COLOURS[colour], place, yaw_rotation(0.0)
        )
        return replace(made, **changes)

    @classmethod
    def scene(cls, *things, camera=None):
        """Returns a grey table without noise, lit from above."""
        grey = next(table for table in TABLES if table.texture == "stone")
        around = Surroundings(grey, 0.6, 0.5, (0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.3, 0.3, 0.3))
        light = Light((0.0, 0.0, 1.0), 0.6, 0.4, 0.0)
        sensor = Sensor(0.0, 1.0, (1.0, 1.0, 1.0), 0.0, 0.0, 0.0, 0)
        return Scene(things, camera or cls.camera(), around, light, sensor)


@pytest.fixture(scope="session")
def make():
    return Maker


@pytest.fixture(scope="session")
def renderer():
    """Renders pictures of 112 x 112 pixels."""
    return SceneRenderer(SMALL)

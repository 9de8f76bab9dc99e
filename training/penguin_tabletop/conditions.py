"""Random tables, cameras, lights and sensors."""

from __future__ import annotations

import numpy as np

from penguin_tabletop.camera import Camera
from penguin_tabletop.catalogue import RGB, TABLES
from penguin_tabletop.meshes import FloatArray
from penguin_tabletop.scene import Light, Sensor, Surroundings

LOWEST_PITCH, HIGHEST_PITCH = np.radians(28), np.radians(62)


def any_camera(random: np.random.Generator) -> Camera:
    """Somewhere above the table, looking at its middle."""
    x, y = random.uniform(-0.12, 0.12, 2)
    return Camera(
        target=(float(x), float(y), 0.02),
        distance=float(random.uniform(0.52, 0.80)),
        yaw=float(random.uniform(-np.pi, np.pi)),
        pitch=float(random.uniform(LOWEST_PITCH, HIGHEST_PITCH)),
        roll=float(np.radians(random.normal(0, 1.5))),
        fov=float(np.radians(random.uniform(38, 48))),
    )


def any_surroundings(random: np.random.Generator) -> Surroundings:
    """A table and a room."""
    grey, shade = random.uniform(0.2, 0.75), random.uniform(-0.04, 0.04, 3)
    return Surroundings(
        TABLES[random.integers(len(TABLES))],
        half_width=float(random.uniform(0.45, 0.8)),
        half_depth=float(random.uniform(0.38, 0.6)),
        texture=(int(random.integers(1 << 16)), float(random.random()), float(random.random())),
        tint=rgb_of(random.uniform(0.92, 1.08) * random.uniform(0.97, 1.03, 3)),
        floor=rgb_of(grey + shade),
    )


def any_light(random: np.random.Generator) -> Light:
    """A lamp somewhere above."""
    around, up = random.uniform(-np.pi, np.pi), np.radians(random.uniform(38, 80))
    ambient = random.uniform(0.5, 0.68)
    return Light(
        direction=(float(np.cos(up) * np.cos(around)), float(np.cos(up) * np.sin(around)), float(np.sin(up))),
        ambient=float(ambient),
        diffuse=float(random.uniform(0.95, 1.1) - ambient),
        specular=float(random.uniform(0.0, 0.25)),
    )


def any_sensor(random: np.random.Generator) -> Sensor:
    """A camera's sensor, better or worse."""
    return Sensor(
        noise=float(random.uniform(0.5, 6)),
        gain=float(random.uniform(0.85, 1.15)),
        tint=rgb_of(random.normal(1, 0.025, 3)),
        blur=float(random.choice([0.0, random.uniform(0.3, 0.7)])),
        vignette=float(random.choice([0.0, random.uniform(0.05, 0.25)])),
        side=0.0,
        number=int(random.integers(1 << 20)),
    )


def rgb_of(values: FloatArray) -> RGB:
    """Three plain floats."""
    red, green, blue = values.tolist()
    return red, green, blue

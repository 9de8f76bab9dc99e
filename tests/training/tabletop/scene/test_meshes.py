"""Meshes are closed, face outwards, and are smooth except at hard edges."""

import numpy as np
import pytest

from penguin_tabletop.scene import meshes


def volume(mesh):
    """Returns the volume, positive if triangles run counter-clockwise seen from outside."""
    a, b, c = (mesh.vertices[mesh.triangles[:, corner]] for corner in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [
        (meshes.box(2, 3, 4), 24),
        (meshes.lathe([(0, 0), (1, 0), (1, 2), (0, 2)], 200), 2 * np.pi),
        (meshes.ball(1, 60, 120), 4 / 3 * np.pi),
        (meshes.ring(2, 0.5, 120, 60), 2 * np.pi**2 * 2 * 0.5**2),
    ],
    ids=["box", "cylinder", "ball", "ring"],
)
def test_solids_have_the_right_volume_and_stand_on_the_ground(mesh, expected):
    assert volume(mesh) == pytest.approx(expected, rel=0.01)
    assert mesh.vertices[:, 2].min() == pytest.approx(0, abs=1e-9)


def test_normals_are_split_at_edges_and_shared_on_curves():
    split, normals = meshes.with_hard_edges(meshes.box(1, 1, 1))
    assert len(split.vertices) == 24  # each corner once for each of its three faces
    assert np.allclose(np.abs(normals).max(axis=1), 1)
    ball, soft = meshes.with_hard_edges(meshes.ball(1).moved(0, 0, -1))
    assert len(ball.vertices) == len(meshes.ball(1).vertices)
    assert np.einsum("ij,ij->i", ball.vertices, soft).min() > 0.98


def test_simplifying_preserves_the_form():
    ball = meshes.ball(1, 40, 80)
    small = meshes.simplified(ball, 300)
    assert 100 < len(small.triangles) <= 300
    assert volume(small) == pytest.approx(volume(ball), rel=0.1)


def test_hull_points_span_the_hull():
    mesh = meshes.ring(1, 0.2)
    outer = meshes.hull_points(mesh)
    directions = np.random.default_rng(0).normal(size=(200, 3))
    missing = (mesh.vertices @ directions.T).max(axis=0) - (outer @ directions.T).max(axis=0)
    assert len(outer) < 81 and (missing / np.linalg.norm(directions, axis=1)).max() < 0.05


def test_an_obj_file_with_quads_and_y_up_is_read(tmp_path):
    file = tmp_path / "square.obj"
    file.write_text("v 0 1 0\nv 1 1 0\nv 1 1 2\nv 0 1 2\nvt 0 0\nf 1/1 2/1 3/1 4/1\n")
    mesh = meshes.read_obj(file, up="y")
    assert mesh.triangles.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert np.allclose(mesh.vertices[:, 2], 1) and np.allclose(mesh.vertices[2], [1, -2, 1])

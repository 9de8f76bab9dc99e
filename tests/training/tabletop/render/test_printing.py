"""Printed words appear on their face, and only legible ones count."""

import numpy as np
import pytest

from penguin_models.types import Size
from penguin_tabletop.render.printing import is_legible
from penguin_tabletop.scene.scene import yaw_rotation


def test_print_darkens_the_face_and_nothing_else(make, renderer):
    blank = make.thing(0, "box", "white")
    printed = make.thing(0, "box", "white", word="TEA")
    plain, inked = (renderer.render(make.scene(it)).rgb.astype(int).sum(-1) for it in (blank, printed))
    changed = plain - inked > 100
    assert 0.003 < changed.mean() < 0.03
    ids = renderer.render(make.scene(printed)).ids[::2, ::2]
    assert np.all(ids[plain != inked] == 0)


@pytest.mark.parametrize(
    ("changes", "word", "readable"),
    [
        ({}, "TEA", True),
        ({"rotation": yaw_rotation(np.pi)}, "TEA", False),  # from behind
        ({"rotation": yaw_rotation(np.radians(80))}, "TEA", False),  # from the side
        ({"rotation": (0.0, np.sin(np.pi / 4), 0.0, np.cos(np.pi / 4))}, "TEA", False),  # lying on its side
        ({"position": (0.0, 3.0, 0.0)}, "TEA", False),  # too small
        ({}, "ABCDEFGHIJ", False),  # too many letters
    ],
)
def test_words_are_legible_only_if_upright_and_large_enough(make, changes, word, readable):
    card = make.thing(0, "card", "white", word=word, **changes)
    assert is_legible(card, make.camera(), Size(224, 224)) == readable

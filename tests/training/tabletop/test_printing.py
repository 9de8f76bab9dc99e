"""Printed words: on the face they belong to, and read only where they can be read."""

import numpy as np
import pytest

from penguin_models.types import Size
from penguin_tabletop.printing import legible
from penguin_tabletop.scene import turned


def test_print_is_dark_on_the_face_and_nowhere_else(make, photographer):
    blank = make.thing(0, "box", "white")
    printed = make.thing(0, "box", "white", word="TEA")
    plain, inked = (photographer.take(make.scene(it)).rgb.astype(int).sum(-1) for it in (blank, printed))
    changed = plain - inked > 100
    assert 0.003 < changed.mean() < 0.03
    ids = photographer.take(make.scene(printed)).ids[::2, ::2]
    assert np.all(ids[plain != inked] == 0)


@pytest.mark.parametrize(
    ("changes", "word", "readable"),
    [
        ({}, "TEA", True),
        ({"turn": turned(np.pi)}, "TEA", False),  # from behind
        ({"turn": turned(np.radians(80))}, "TEA", False),  # from the side
        ({"turn": (0.0, np.sin(np.pi / 4), 0.0, np.cos(np.pi / 4))}, "TEA", False),  # lying on its side
        ({"position": (0.0, 3.0, 0.0)}, "TEA", False),  # too small
        ({}, "ABCDEFGHIJ", False),  # too many letters
    ],
)
def test_legible(make, changes, word, readable):
    card = make.thing(0, "card", "white", word=word, **changes)
    assert legible(card, make.camera(), Size(224, 224)) == readable

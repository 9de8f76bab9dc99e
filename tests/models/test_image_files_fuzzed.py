"""Damaged image files are read or refused with one sentence, whatever they hold."""

from random import Random

import numpy as np
import pytest
from damage import damage
from fuzzing import FUZZ
from hypothesis import given
from hypothesis import strategies as st
from small_images import small_images

from penguin_models.errors import MediaError
from penguin_models.media import load_image

_MAX_PIXELS = 5_000
_VALID = small_images()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed") / "x.img"


@FUZZ
@given(seed=st.integers(0, 2**64 - 1))
def test_damaged_files(path, seed):
    random = Random(seed)
    path.write_bytes(damage(random.choice(_VALID), random))
    try:
        rgb = load_image(path, _MAX_PIXELS)
    except MediaError as err:
        assert len(str(err)) < 700 and "\n" not in str(err) and " at 0x" not in str(err)
    else:
        assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3
        assert 0 < rgb.shape[0] * rgb.shape[1] <= _MAX_PIXELS

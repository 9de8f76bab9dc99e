"""A device that is out of memory, said in one line: what did not fit, into what, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from penguin_models.errors import DeviceMemoryError


@contextmanager
def oom_as_error(what: str, remedy: str) -> Iterator[None]:
    """Gives torch's error about too little memory the form of ours.

    Args:
        what: what needs the memory.
        remedy: what makes it less.

    Raises:
        DeviceMemoryError: it does not fit.
    """
    try:
        yield
    except torch.OutOfMemoryError as err:
        # Its first sentences say how much was wanted, how much there is and how much is free; then comes advice.
        sentences = re.split(r"(?<=\.)\s+", " ".join(str(err).split()))[:3]
        raise DeviceMemoryError(f"{what} does not fit into memory: {' '.join(sentences)} {remedy}") from err

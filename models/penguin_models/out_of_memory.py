"""Turns torch's out-of-memory error into one line: what did not fit, into what, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from penguin_models.errors import DeviceMemoryError


@contextmanager
def oom_as_error(what: str, remedy: str) -> Iterator[None]:
    """Raises torch's out-of-memory error as ours.

    Args:
        what: What needs the memory.
        remedy: What to do about it, as a sentence.

    Raises:
        DeviceMemoryError: The device has too little memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as err:
        # torch's first sentences say how much was requested, how much there is and how much is free.
        sentences = re.split(r"(?<=\.)\s+", " ".join(str(err).split()))[:3]
        raise DeviceMemoryError(f"{what} does not fit into memory: {' '.join(sentences)} {remedy}") from err

"""Errors that a user or a robot can cause; our own bugs are assertions.

Every message names the value, the limit and the remedy. The command line prints it as one line and exits with code 1;
the ROS node turns it into an error code.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager


class PenguinError(ValueError):
    """Base class of all errors that the caller can cause and fix."""


class CheckpointError(PenguinError):
    """A checkpoint is missing, incomplete, or does not match its configuration."""


class MediaError(PenguinError):
    """An image, video or bag is missing, empty or cannot be decoded."""


class WriteError(PenguinError):
    """A file cannot be written: the disk is full, or its folder is read-only."""


class BudgetError(PenguinError):
    """A token budget is too small for what must fit into it."""


class ContextLengthError(PenguinError):
    """A prompt exceeds the model's context length, or the length of its KV cache."""


class DeviceMemoryError(PenguinError):
    """A device has too little memory for the weights or for an operation."""


class EvaluationError(PenguinError):
    """Questions or results are missing, malformed or inconsistent."""


class NoFramesError(PenguinError):
    """A question arrived before any frame did."""


class BusyError(PenguinError):
    """The queue of questions is full."""


class CancelledError(PenguinError):
    """A question was cancelled before its answer began, by the caller or because the node stopped."""


class UnknownCameraError(PenguinError):
    """A question names a camera that the node does not subscribe to."""


class NotActiveError(PenguinError):
    """A question reached a node that is not active."""


class PromptError(PenguinError):
    """A conversation is malformed, or its placeholders do not match its images."""


class EpisodeError(PenguinError):
    """An episode file is missing, damaged, of a newer version, or written by another process."""


class EngineError(PenguinError):
    """An exported folder, a TensorRT plan or a runtime is missing, damaged, or does not match the model or machine."""


class NonFiniteError(EngineError):
    """A model's logits are NaN or infinite: its weights are damaged, or their type overflows."""


class RemoteServerError(PenguinError):
    """A remote server failed or cannot be reached."""


class BrokenAnswerError(RemoteServerError):
    """A remote server failed in the middle of an answer."""


class NoLogprobsError(RemoteServerError):
    """A remote server does not send the probabilities that a judgement needs."""


class TabletopError(PenguinError):
    """A setting of the simulated table-top is out of range, or its renderer is missing."""


class SettingError(PenguinError):
    """A setting (node, keyframe policy, training stage) is unknown, out of range, or contradicts another."""


class DataError(PenguinError):
    """Training data is missing or malformed, or too many samples are unusable."""


class TrainingError(PenguinError):
    """A training run cannot start, continue or resume."""


@contextmanager
def oom_as_error(what: str, remedy: str) -> Iterator[None]:
    """Raises DeviceMemoryError in place of torch's out-of-memory error; `what` needs memory, `remedy` is a sentence."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as err:
        # torch's first sentences say how much was requested, how much there is and how much is free.
        sentences = re.split(r"(?<=\.)\s+", " ".join(str(err).split()))[:3]
        raise DeviceMemoryError(f"{what} does not fit into memory: {' '.join(sentences)} {remedy}") from err

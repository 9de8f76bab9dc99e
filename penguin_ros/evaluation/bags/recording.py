"""Opens a recording for questions, whose times must be those of its images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from penguin_models.errors import EvaluationError, MediaError
from penguin_ros.bag_storage.bag import Bag
from penguin_ros.recording import Recording, choose_topic, read_recording


def open_recording(path: Path, topics: Sequence[str | None]) -> Recording:
    """Reads the times of the images on some topics of a bag; None stands for its only image topic.

    Raises:
        MediaError: The bag cannot be read, or a topic has no images.
        EvaluationError: A topic is missing or ambiguous, or neither stamps nor log times say when images were taken.
    """

    def choose(bag: Bag) -> list[str]:
        try:
            return list(dict.fromkeys(choose_topic(bag, topic, option="--camera") for topic in topics))
        except MediaError as err:
            raise EvaluationError(str(err)) from err

    recording = read_recording(path, choose, for_questions=True)
    if recording.fault:
        raise EvaluationError(f"bag {path}: {recording.fault}")
    return recording

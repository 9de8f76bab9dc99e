"""The keyframes of a recorded camera, chosen among the images that the node would take."""

from __future__ import annotations

from penguin_engine.scene.mailbox import Mailbox
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.types import Frame, FrameKind
from penguin_ros.recording import RecordedImage


class KeyframeSampler:
    """Chooses images of one camera, offered in the order of their times; `fps` as the node's sampling rate in Hz."""

    def __init__(self, fps: float):
        self._mailbox = Mailbox(fps)
        self._policy = NoveltyPolicy()

    def chosen(self, image: RecordedImage, anyway: bool = False) -> Frame | None:
        """Returns the decoded image if it is a keyframe or is wanted anyway; raises MediaError if it is damaged."""
        is_sampled = self._mailbox.offer(image.ref.stamp_ns, image.load)
        if not is_sampled and not anyway:
            return None
        frame = image.load()
        is_key = is_sampled and self._policy.observe(frame) == FrameKind.KEY
        return frame if is_key or anyway else None

"""Clips of the simulated table-top on which key-frame policies are measured: frames, and what happens when.

Needs PyBullet.
"""

from __future__ import annotations

from collections.abc import Iterator

from penguin_models.types import Frame, Size
from penguin_tabletop.clips.events import Event
from penguin_tabletop.clips.timeline import TabletopClip
from penguin_tabletop.render.picture import SceneRenderer
from penguin_tabletop.seeds import Split

_SIZE = Size(240, 320)
_FPS = 5.0


class RenderedClip:
    """A clip of the test split.

    Attributes:
        events: in order of time.
        seconds: length.
    """

    def __init__(self, number: int, calm: bool):
        """Plans a clip; nothing is rendered yet.

        Args:
            number: of the clip.
            calm: without events, only noise, flicker and slow changes of light.

        Raises:
            TabletopError: PyBullet is not installed.
        """
        self._clip = TabletopClip(Split.TEST.seed(number, base=1 + calm), _SIZE, _FPS, calm=calm)
        self.events: tuple[Event, ...] = self._clip.events
        self.seconds = self._clip.seconds

    def __iter__(self) -> Iterator[Frame]:
        """Renders the frames."""
        renderer = SceneRenderer(_SIZE)
        try:
            for view in self._clip.frames(renderer):
                yield Frame(view.picture.rgb, round(view.stamp_s * 1e9))
        finally:
            renderer.close()

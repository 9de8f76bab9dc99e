"""Clips of the simulated table-top for measuring keyframe policies. Needs PyBullet."""

from __future__ import annotations

from collections.abc import Iterator

from penguin_engine.bench.keyframe_policies import LabelledClip
from penguin_models.types import Frame, Size
from penguin_tabletop.clips.timeline import TabletopClip
from penguin_tabletop.render.picture import SceneRenderer
from penguin_tabletop.seeds import Split

_SIZE = Size(240, 320)
_FPS = 5.0


def rendered_clips(count: int) -> Iterator[LabelledClip]:
    """Yields `count` clips of the test split with events, each followed by a calm one: only noise, flicker, slow light.

    Raises:
        TabletopError: PyBullet is not installed.
    """
    for number in range(count):
        for calm in (False, True):
            clip = TabletopClip(Split.TEST.seed(number, base=1 + calm), _SIZE, _FPS, calm=calm)
            yield LabelledClip(_render(clip), [(event.start_s, event.end_s) for event in clip.events], clip.seconds)


def _render(clip: TabletopClip) -> Iterator[Frame]:
    for view in clip.frames(SceneRenderer(_SIZE)):
        yield Frame(view.picture.rgb, round(view.stamp_s * 1e9))

"""Sampling is that of ffmpeg's fps filter; timestamps that jump are tested with real files in test_video_files.py."""

from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from hypothesis import given
from hypothesis import strategies as st

from penguin_models.frame_sampling import FrameSampler


def filtered(pts, durations, time_base, fps):
    """Returns (frame, number of samples) by ffmpeg's filter, or the last frame if it passes none."""
    graph = Graph()
    source = graph.add_buffer(width=2, height=2, format="gray", time_base=time_base)
    rate = graph.add("fps", f"fps={fps.numerator}/{fps.denominator}:round=down")
    source.link_to(rate)
    rate.link_to(graph.add("buffersink"))
    graph.configure()
    found = []
    for place, (stamp, duration) in enumerate([*zip(pts, durations, strict=True), (None, None)]):
        frame = None
        if stamp is not None:
            frame = av.VideoFrame.from_ndarray(np.full((2, 2), place, np.uint8), format="gray")
            frame.pts, frame.duration, frame.time_base = stamp, duration, time_base
        graph.push(frame)
        try:
            while True:
                found.append(int(graph.pull().to_ndarray()[0, 0]))
        except (BlockingIOError, EOFError):
            pass
    return [(place, found.count(place)) for place in dict.fromkeys(found)] or [(len(pts) - 1, 1)]


@given(
    st.lists(st.tuples(st.integers(-4, 400), st.integers(0, 60)), min_size=1, max_size=40),
    st.integers(-3000, 3000),
    st.sampled_from([Fraction(1), Fraction(2), Fraction(1, 3), Fraction(30000, 1001), Fraction(7, 5)]),
)
def test_ordinary_videos_are_sampled_as_by_the_fps_filter(steps, start, fps):
    """Steps and durations in 1/45 s: some frames out of order by less than 0.1 s, gaps below 9 s."""
    time_base = Fraction(1, 45)
    pts = [start + int(total) for total in np.cumsum([step for step, _ in steps])]
    durations = [duration for _, duration in steps]
    sampler = FrameSampler(fps)
    timed = [(i, p * time_base, d * time_base) for i, (p, d) in enumerate(zip(pts, durations, strict=True))]
    assert [(place, len(covered)) for place, covered in sampler.sample(timed)] == filtered(
        pts, durations, time_base, fps
    )
    assert not sampler.jumps

"""Video in bags: whatever is read, in whatever order, is the picture of its own stamp."""

from __future__ import annotations

import pytest
from encoded_video import STREAMS, number_of, packets

pytest.importorskip("rosbags", reason="needs the extra eval")

from penguin_models.errors import MediaError
from penguin_ros.bags import BagClip
from penguin_ros.episode_bag import BagEpisodes
from penguin_ros.recording import read_recording

PERIOD_NS = 10**8


def write(bags, streams, name="bag", left_out=()):
    """Writes cameras /h264 and so on, each with the packets of a stream, recorded in the order of decoding."""
    topics = {}
    for camera, stream in streams.items():
        codec, first = STREAMS[stream][0], packets(stream)
        topics[camera] = [
            (
                number * PERIOD_NS + 1,
                bags.ffmpeg(packet.data, codec, 10**9 + packet.number * PERIOD_NS)
                if camera == "/ffmpeg"
                else bags.compressed(packet.data, codec, 10**9 + packet.number * PERIOD_NS),
            )
            for number, packet in enumerate(first)
            if number not in left_out
        ]
    return bags.write(topics, name)


def numbers(images):
    return [number_of(image.load().rgb) for image in images]


@pytest.mark.parametrize("stream", STREAMS)
def test_pictures_of_two_videos_are_read_from_anywhere(bags, stream):
    path = write(bags, {"/a": stream, "/ffmpeg": "h264", "/b": "h265"})
    recording = read_recording(path, lambda bag: ["/a", "/ffmpeg", "/b"])
    refs = [ref for ref in recording.images if ref.camera == "/a"]
    number = {ref: round((ref.stamp_ns - refs[0].stamp_ns) / PERIOD_NS) for ref in recording.images}
    for chosen in (recording.images, refs, recording.images[41:], refs[3::7], refs[25:26]):
        assert [(i.ref, number_of(i.load().rgb)) for i in recording.read(chosen)] == [(r, number[r]) for r in chosen]
    kept = list(recording.read(refs[8:16]))[::-1]  # decoded later, the newest first
    assert numbers(kept) == list(range(15, 7, -1))


def test_a_gap_and_a_late_beginning_are_errors_of_their_images_only(bags):
    path = write(bags, {"/camera": "h264"}, left_out={0, 1, 2, 14})
    recording = read_recording(path, lambda bag: ["/camera"])
    assert recording.video_starts.keys() == {"/camera"}
    found, reasons = [], []
    for image in recording.read():
        try:
            found.append(number_of(image.decode()))
        except MediaError as err:
            reasons.append(str(err))
    assert found == [10, 11, 12, 13, *range(20, 30)] and len(reasons) == 7 + 5
    assert "comes before the first keyframe" in reasons[0] and "packets were lost" in reasons[-1]
    clip = BagClip(path, fps=2)
    assert [number_of(frame.rgb) for frame in clip][1:] == [22, 27, 29] or clip.notes
    assert any("cannot be decoded" in note and "skipped" in note for note in clip.notes)


def test_episodes_of_a_video_are_its_keyframes(bags):
    episodes = BagEpisodes(write(bags, {"/ffmpeg": "h264"}), [], 2.0, "map")
    pictures = [number_of(picture) for _, picture in episodes]
    assert pictures and episodes.counts["/ffmpeg"].bad_images == 0
    assert all(
        1e9 + number * PERIOD_NS == episode.stamp_ns for number, (episode, _) in zip(pictures, episodes, strict=False)
    )

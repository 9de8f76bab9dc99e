"""H.264 and H.265 with packets that are missing, damaged, reordered or of another size: no picture is ever wrong."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from encoded_video import STREAMS, number_of, packets

from penguin_models.errors import MediaError
from penguin_ros.video_decoder import VideoDecoder, picture_to_rgb
from penguin_ros.video_packets import VideoPacket, video_packet


def decode(stream, sent, decoder=None):
    """Decodes packets; returns the decoder and the pictures, which must be those of their packets."""
    decoder, codec = decoder or VideoDecoder(), STREAMS[stream][0]
    done = [pair for packet in sent for pair in decoder.decode(VideoPacket(codec, packet.data), packet.number)]
    done += decoder.drain()
    numbers = [number for number, _ in done]
    assert numbers == [number_of(picture_to_rgb(picture)) for _, picture in done] == sorted(numbers)
    return decoder, numbers


@pytest.mark.parametrize("stream", STREAMS)
def test_every_picture_of_a_whole_stream_is_decoded_under_its_own_number(stream):
    decoder, numbers = decode(stream, packets(stream))
    assert numbers == list(range(30))
    assert (decoder.packets, decoder.skipped, decoder.damaged, decoder.losses) == (30, 0, 0, 0)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("fault", ["begins late", "loses one", "loses three", "damaged", "interrupted"])
def test_after_a_fault_nothing_is_shown_before_the_next_keyframe(stream, fault):
    sent = list(packets(stream))
    place = next(n for n in range(12, 18) if sent[n].number > max(p.number for p in sent[:n]))  # others refer to it
    lost = {"begins late": sent[:3], "loses one": sent[place : place + 1], "loses three": sent[place : place + 3]}
    if fault in lost:
        sent = [packet for packet in sent if packet not in lost[fault]]
    elif fault == "damaged":
        sent[place] = sent[place]._replace(data=sent[place].data[:7])
    decoder = VideoDecoder()
    if fault == "interrupted":
        before = decode(stream, sent[:place], decoder)[1]
        decoder.interrupt("time jumped back")
        assert decoder.problem == "time jumped back"
        decoder, numbers = decode(stream, sent[place:], decoder)
        numbers = before + numbers
    else:
        decoder, numbers = decode(stream, sent, decoder)
    assert numbers[-3:] == [27, 28, 29] and len(numbers) < 30
    assert len(numbers) + decoder.skipped + decoder.damaged == decoder.packets
    if fault != "begins late":
        assert numbers[:10] == list(range(10))
    if fault.startswith("loses"):
        assert decoder.losses + decoder.damaged >= 1


def test_a_lost_picture_that_no_other_refers_to_costs_only_itself():
    sent = packets("h264 with B-frames")
    place = max(n for n in range(25) if sent[n].number < sent[n - 1].number)  # a B-frame
    _, numbers = decode("h264 with B-frames", [*sent[:place], *sent[place + 1 :]])
    assert len(numbers) == 29


def test_size_and_codec_may_change():
    decoder, _ = decode("h264", packets("h264"))
    decoder, numbers = decode("h264", packets("h264", 12, (96, 64)), decoder)
    assert numbers == list(range(12)) and (decoder.skipped, decoder.damaged) == (0, 0)
    decoder, numbers = decode("h265", packets("h265", 12), decoder)
    assert numbers == list(range(12)) and decoder.skipped == 0


def test_a_picture_that_is_too_large_is_not_decoded():
    decoder = VideoDecoder(64 * 48 - 1)
    assert decode("h264", packets("h264")[:12], decoder)[1] == [] and decoder.damaged == 2
    assert "max_image_pixels = 3071" in decoder._damage


def test_a_keyframe_without_parameters_is_named_with_its_remedy():
    from penguin_ros import video_packets

    decoder = VideoDecoder()
    for packet in packets("h264"):
        units = [packet.data[a:b] for a, b in video_packets._units(packet.data)]
        bare = b"".join(b"\0\0\1" + unit for unit in units if unit[0] & 31 not in (7, 8))
        assert decoder.decode(VideoPacket("h264", bare), 0) == []
    assert decoder.skipped == 30 and "make it repeat them" in decoder.problem


@pytest.mark.parametrize(
    ("image_format", "codec"),
    [
        ("h264", "h264"), ("H.264", "h264"), ("video/h264", "h264"), ("avc1", "h264"), ("hevc", "hevc"),
        ("h265", "hevc"), ("x265", "hevc"), ("", "sniffed"), ("jpeg", "sniffed"),
    ],
)  # fmt: skip
def test_a_compressed_image_is_video_as_its_format_or_data_say(image_format, codec):
    assert video_packet(SimpleNamespace(format="jpeg", data=b"\xff\xd8\xff\xe0JFIF")) is None
    for stream in ("h264", "h265"):
        data = np.frombuffer(packets(stream)[0].data, np.uint8)
        packet = video_packet(SimpleNamespace(format=image_format, data=data))
        assert packet == (STREAMS[stream][0] if codec == "sniffed" else codec, data.tobytes())


@pytest.mark.parametrize(
    ("encoding", "codec"),
    [
        ("libx264", "h264"),
        ("h264_nvenc", "h264"),
        ("hevc;yuv420p;bgr8;bgr8", "hevc"),
        ("libx265", "hevc"),
        ("av1", None),
    ],
)
def test_the_codec_of_an_ffmpeg_packet_is_that_of_its_encoder(encoding, codec):
    message = SimpleNamespace(encoding=encoding, pts=0, data=b"\0\0\1\x67")
    if codec is None:
        with pytest.raises(MediaError, match="encoding 'av1' is not read"):
            video_packet(message)
    else:
        assert video_packet(message).codec == codec


def test_arbitrary_bytes_are_counted_and_the_next_keyframe_is_decoded():
    random = np.random.default_rng(3)
    decoder = VideoDecoder()
    decode("h264", packets("h264")[:5], decoder)
    for size in (0, 1, 4, 40, 400):
        for start in (b"", b"\0\0\1\x67", b"\0\0\0\1\x65", b"\0\0\1\x41", b"\0\0\1\x06\x06"):
            decoder.decode(VideoPacket("h264", start + random.bytes(size)), -1)
    assert decode("h264", packets("h264")[10:], decoder)[1][-10:] == list(range(20, 30))

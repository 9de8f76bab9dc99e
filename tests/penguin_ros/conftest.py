"""Shared fixtures: real bags, written with rosbags, and the command line run in the test process.

torch and rosbags are imported only by the fixtures that need them: `colcon test` runs some tests without them.
"""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import Result
from PIL import Image

START_NS = 1_700_000_000_123_456_789


class BagMaker:
    """Makes messages of rosbags' types and writes bags of them to a folder."""

    def __init__(self, folder: Path):
        from penguin_ros.message_types import typestore

        self._folder = folder
        self._store = typestore()

    def raw(self, rgb, encoding="rgb8", stamp_ns=0):
        height, width, channels = rgb.shape
        return self._message(
            "sensor_msgs/msg/Image",
            header=self._header(stamp_ns),
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=width * channels,
            data=np.ascontiguousarray(rgb).reshape(-1),
        )

    def jpeg(self, rgb, kept=1.0, stamp_ns=0):
        """Returns a JPEG message that holds only the first part `kept` of the file."""
        file = io.BytesIO()
        Image.fromarray(rgb).save(file, "jpeg", quality=95)
        data = file.getvalue()
        return self.compressed(data[: int(len(data) * kept)], "rgb8; jpeg compressed bgr8", stamp_ns)

    def compressed(self, data, image_format, stamp_ns=0):
        array, header = np.frombuffer(data, np.uint8), self._header(stamp_ns)
        return self._message("sensor_msgs/msg/CompressedImage", header=header, format=image_format, data=array)

    def ffmpeg(self, data, encoding, stamp_ns=0):
        """Returns an FFMPEGPacket message."""
        fields = {"width": 64, "height": 48, "encoding": encoding, "pts": 0, "flags": 0, "is_bigendian": False}
        array, header = np.frombuffer(data, np.uint8), self._header(stamp_ns)
        return self._message("ffmpeg_image_transport_msgs/msg/FFMPEGPacket", header=header, data=array, **fields)

    def ros1_jpeg(self, rgb, stamp_ns=0):
        """Returns a serialised JPEG message of ROS 1."""
        stamp, data = divmod(stamp_ns, 10**9), bytes(self.jpeg(rgb).data)
        strings = (struct.pack("<I", len(value)) + value for value in (b"camera", b"jpeg", data))
        return struct.pack("<III", 7, *stamp) + b"".join(strings)

    def serialize(self, message):
        return bytes(self._store.serialize_cdr(message, message.__msgtype__))

    def transforms(self, stamp_ns, *edges):
        """Returns a TFMessage of edges (parent, child, position, quaternion)."""
        vector, quaternion = "geometry_msgs/msg/Vector3", "geometry_msgs/msg/Quaternion"
        items = []
        for parent, child, position, rotation in edges:
            shift = self._message(vector, **dict(zip("xyz", map(float, position), strict=True)))
            turn = self._message(quaternion, **dict(zip("xyzw", map(float, rotation), strict=True)))
            transform = self._message("geometry_msgs/msg/Transform", translation=shift, rotation=turn)
            header = self._header(stamp_ns, parent)
            kind = "geometry_msgs/msg/TransformStamped"
            items.append(self._message(kind, header=header, child_frame_id=child, transform=transform))
        return self._message("tf2_msgs/msg/TFMessage", transforms=items)

    def caption(self, stamp_ns, camera, text, objects=(), size=(0, 0)):
        """Returns a GroundedCaption about an image of a size (height, width), with objects (label, box in pixels)."""
        sides = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")
        items = [
            self._message(
                "penguin_vl/msg/GroundedObject",
                label=label,
                score=1.0,
                **dict(zip(sides, box, strict=True)),
                position_frame_id="",
                position=self._message("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0),
                position_covariance=np.zeros(9),
            )
            for label, box in objects
        ]
        counts = ("visual_tokens", "generated_tokens", "malformed_boxes")
        seconds = ("frame_age_s", "first_token_s", "total_s")
        return self._message(
            "penguin_vl/msg/GroundedCaption",
            header=self._header(stamp_ns),
            camera=camera,
            image_height_px=size[0],
            image_width_px=size[1],
            text=text,
            objects=items,
            time_ranges=[],
            keyframe=True,
            **dict.fromkeys(counts, 0),
            **dict.fromkeys(seconds, 0.0),
        )

    def text(self, content):
        return self._message("std_msgs/msg/String", data=content)

    def write(self, topics, name="bag", storage="mcap", compression="none"):
        """Writes a bag and returns its path.

        `topics` maps each topic to [(seconds, message or its bytes), ...], or to a type name for an empty topic.
        Bytes are written unchanged, with the type of the topic's first message.
        """
        from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

        writer = Writer(self._folder / name, version=9, storage_plugin=StoragePlugin[storage.upper()])
        writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
        with writer:
            for topic, content in topics.items():
                kind, messages = (content, []) if isinstance(content, str) else (content[0][1].__msgtype__, content)
                connection = writer.add_connection(topic, kind, typestore=self._store)
                for seconds, message in messages:
                    data = message if isinstance(message, bytes) else self._store.serialize_cdr(message, kind)
                    writer.write(connection, START_NS + round(seconds * 1e9), data)
        return self._folder / name

    def _header(self, stamp_ns, frame_id="camera"):
        time = self._message("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        return self._message("std_msgs/msg/Header", stamp=time, frame_id=frame_id)

    def _message(self, kind, **fields):
        return self._store.types[kind](**fields)


@pytest.fixture
def bags(tmp_path):
    pytest.importorskip("rosbags", reason="needs the extra eval")
    return BagMaker(tmp_path)


@pytest.fixture
def cli(monkeypatch, capsys, one_thread):
    """Returns a function that runs the entry point in this process; an unhandled exception fails the test."""
    from penguin_ros.cli.main import main

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["penguin-vl", *map(str, args)])
        with pytest.raises(SystemExit) as raised:
            main()
        return Result(raised.value.code, *capsys.readouterr())

    return run

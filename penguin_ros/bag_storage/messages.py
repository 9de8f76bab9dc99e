"""Topics and messages as every storage file holds them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, Protocol


class Connection(NamedTuple):
    """A topic of one storage file, with the type of its messages."""

    id: int  # number within the file
    topic: str
    msgtype: str  # such as sensor_msgs/msg/Image, also in ROS 1 files; empty if the file does not say
    encoding: str  # of the messages: "cdr" (ROS 2), "ros1", or another one, which cannot be read
    definition_format: str = ""  # "ros2msg", "ros2idl", "ros1msg", or another one; empty without a definition
    definition: bytes = b""  # what the file says about the fields of the type

    @property
    def description(self) -> str:
        """Type and, if it cannot be read, encoding, for messages to the user."""
        kind = self.msgtype or "no type"
        return kind if self.encoding in READABLE_ENCODINGS else f"{kind} in encoding {self.encoding!r}"


READABLE_ENCODINGS = ("cdr", "ros1")


class Message(NamedTuple):
    """A recorded message."""

    connection: Connection
    log_ns: int  # when it was recorded
    place: int  # increases in the order in which messages were written to the file
    data: bytes


class StorageFile(Protocol):
    """An open file of a bag."""

    @property
    def connections(self) -> list[Connection]:
        """The topics of the file."""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences about what is unusual."""

    @property
    def start_ns(self) -> int:
        """The earliest log time; any number if there are no messages."""

    def messages(self, wanted: Collection[Connection], start_ns: int) -> Iterator[Message]:
        """Yields the messages of some connections recorded at or after a time, in the order of their log times."""

    def close(self) -> None:
        """Closes the file."""


def ros2_type(name: str) -> str:
    """Returns the name of a message type with the part /msg/, which ROS 1 leaves out."""
    package, slash, kind = name.partition("/")
    return f"{package}/msg/{kind}" if slash and "/" not in kind else name

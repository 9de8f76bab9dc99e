"""Bag folders: the files decide what a bag holds, whatever its metadata.yaml says."""

from __future__ import annotations

import os

import pytest
import yaml

from penguin_models.errors import MediaError
from penguin_ros.bag_storage.folder import storage_files
from penguin_ros.bags import BagClip


@pytest.fixture
def split(bags, picture, tmp_path):
    """Returns a function that writes a bag of 12 files with one image each, and returns its folder."""

    def make(storage="mcap", compression="none", name="bag", count=12):
        folder = tmp_path / name
        folder.mkdir()
        names = []
        for number in range(count):
            image = bags.jpeg(picture(16, 24) // 2 + 10 * number)
            part = bags.write({"/camera": [(number, image)]}, f"{name}-{number}", storage, compression)
            (file,) = (file for file in part.iterdir() if file.name != "metadata.yaml")
            names.append(f"{name}_{number}{''.join(file.suffixes)}")
            file.rename(folder / names[-1])
        content = yaml.safe_load((part / "metadata.yaml").read_text())
        content["rosbag2_bagfile_information"]["relative_file_paths"] = names
        (folder / "metadata.yaml").write_text(yaml.safe_dump(content))
        return folder

    return make


def edit(folder, **values):
    content = yaml.safe_load((folder / "metadata.yaml").read_text())
    content["rosbag2_bagfile_information"].update(values)
    (folder / "metadata.yaml").write_text(yaml.safe_dump(content))


def read(path):
    """Returns the times of the images, which become brighter, and the notes."""
    clip = BagClip(path)
    frames = list(clip)
    brightness = [frame.rgb.mean() for frame in frames]
    assert brightness == sorted(brightness)
    return [frame.time_s for frame in frames], clip.notes


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compression", ["none", "file", "message"])
def test_a_split_bag_is_read_with_and_without_metadata(split, storage, compression):
    count = 12 if storage == "mcap" else 3  # SQLite files take long to write
    folder = split(storage, compression, count=count)
    (folder / "._bag_0.mcap").write_bytes(b"Mac OS X")  # what copying leaves behind
    assert read(folder) == (list(range(count)), [])
    (folder / "metadata.yaml").unlink()
    assert read(folder) == (list(range(count)), [])


@pytest.mark.parametrize(
    "values",
    [
        {"storage_identifier": ""},
        {"storage_identifier": "sqlite3"},
        {"compression_mode": "FILE", "compression_format": "zstd"},
        {"compression_mode": "MESSAGE", "compression_format": "zstd"},
        {"compression_mode": "NONE", "compression_format": "unknown"},
        {"topics_with_message_count": []},
        {
            "topics_with_message_count": [
                {"message_count": 3, "topic_metadata": {"name": "/x", "type": "std_msgs/msg/A"}}
            ]
        },
        {"message_count": 0, "duration": {"nanoseconds": 0}},
        {"version": 99},
        {"relative_file_paths": ["/old/place/bag_0.mcap"]},
        {"relative_file_paths": ["renamed_0.mcap"]},
        {"relative_file_paths": []},
    ],
)
def test_metadata_that_contradict_the_files_do_no_harm(split, values):
    folder = split(count=3)
    edit(folder, **values)
    assert read(folder) == ([0, 1, 2], [])


@pytest.mark.parametrize(
    "content", [b"", b"{", b"rosbag2_bagfile_information: 3", b"other: 1", b"\x00\x01", b"\xff\xfe", b"a: [b\nc: d"]
)
def test_metadata_that_cannot_be_read_are_noted(split, content):
    folder = split(count=2)
    (folder / "metadata.yaml").write_bytes(content)
    times, (note,) = read(folder)
    assert times == [0, 1]
    assert note.startswith("metadata.yaml cannot be used (") and note.endswith("; the bag is read without it")


def test_a_missing_part_is_noted(split):
    folder = split(count=3)
    (folder / "bag_1.mcap").unlink()
    assert read(folder) == ([0, 2], ["1 of the 3 files in metadata.yaml are missing: bag_1.mcap"])


def test_missing_messages_are_noted(split):
    folder = split("sqlite3", count=2)
    counts = [{"topic_metadata": {"name": name}, "message_count": 8} for name in ("/camera", "/other")]
    edit(folder, topics_with_message_count=counts)
    times, (note,) = read(folder)
    assert times == [0, 1] and note.startswith("/camera: metadata.yaml announces 8 messages, the files hold 2; was")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("metadata", [True, False])
def test_an_empty_part_is_noted_and_the_others_are_read(split, storage, metadata):
    folder = split(storage, count=3)
    last = max(folder.glob("bag_2.*"))
    last.write_bytes(b"")
    if not metadata:
        (folder / "metadata.yaml").unlink()
    assert read(folder) == ([0, 1], [f"1 of 3 files are empty (0 bytes), as after a crash: {last.name}"])


def test_the_files_of_two_bags_are_told_apart(split):
    folder, other = split(count=2), split("sqlite3", name="other", count=3)
    for file in other.glob("*.db3"):
        file.rename(folder / file.name)
    assert read(folder) == ([0, 1], [])  # metadata.yaml names the files of one
    (folder / "metadata.yaml").unlink()
    files = "bag_0.mcap, bag_1.mcap, other_0.db3, other_1.db3, other_2.db3"
    with pytest.raises(MediaError, match=rf"holds the files of 2 bags \({files}\); give one of the files"):
        BagClip(folder)


def test_a_pipe_is_no_bag_and_nothing_waits_for_its_writer(tmp_path, split):
    """Nor does a path that the system refuses end a command that has other bags to read."""
    os.mkfifo(tmp_path / "a.mcap")
    with pytest.raises(MediaError, match=r"a\.mcap is neither a file nor a folder; give the folder of a bag"):
        storage_files(tmp_path / "a.mcap")
    with pytest.raises(MediaError, match="cannot be read: File name too long; check"):
        storage_files(tmp_path / ("x" * 300))
    folder = split()
    (folder / "metadata.yaml").unlink()
    os.mkfifo(folder / "metadata.yaml")
    assert storage_files(folder).notes == ["metadata.yaml cannot be used (it is no file); the bag is read without it"]


def test_a_folder_without_recordings_is_an_error(tmp_path, split):
    with pytest.raises(MediaError, match=rf"^{tmp_path} holds no .mcap, .db3 or .bag file; give the folder of a bag"):
        BagClip(tmp_path)
    folder = split(count=1)
    (folder / "bag_0.mcap").unlink()
    with pytest.raises(MediaError, match=r"holds no .* file; its metadata.yaml names bag_0.mcap;"):
        BagClip(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (bytes(90), r"is damaged: it begins with zeros, as after a power cut; to recover .*"),
        (b"hello " * 9, r"is not a bag \(MCAP, SQLite or ROS 1\); it begins with b'hello he'"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a placeholder of Git LFS; fetch the file with `git lfs pull`",
        ),
    ],
)
@pytest.mark.parametrize("name", ["bag_1.mcap", "bag_1.db3"])
def test_a_file_that_is_not_a_recording_is_an_error(split, content, reason, name):
    folder = split("mcap" if name.endswith("mcap") else "sqlite3", count=2)
    (folder / name).write_bytes(content)
    for path in (folder, folder / name)[not content :]:  # an empty part of several is left out
        with pytest.raises(MediaError, match=rf"^bag {path} cannot be read: {name} {reason}$"):
            BagClip(path)

"""Atomic writes: a failure keeps the old file and leaves nothing else behind."""

import errno
import os
import resource
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models

from penguin_models.atomic_write import atomic_files, atomic_write, writing
from penguin_models.errors import SettingError, WriteError


@pytest.mark.parametrize(("mode", "content"), [("w", "größer\n"), ("wb", b"\x00\xff")])
def test_content_is_written_to_a_new_folder(tmp_path, mode, content):
    path = tmp_path / "new" / "folder" / "file"
    with atomic_write(path, mode) as file:
        file.write(content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(path.parent.iterdir()) == [path]


def test_old_content_is_visible_until_the_block_ends(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_write(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()])
def test_any_error_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_write(path) as file:
        file.write("half of the ")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_clear_error_and_keeps_the_old_file(tmp_path):
    """A limit on the size of files stands in for the full disk: the kernel refuses the write itself."""
    path = tmp_path / "file"
    path.write_text("old")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"/file cannot be written: File too large"), atomic_write(path) as file:
            file.write("x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_symbolic_link_stays_a_link(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    with atomic_write(tmp_path / "link") as file:
        file.write("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"


def test_a_pipe_is_written_to_directly():
    read_end, write_end = os.pipe()
    with atomic_write(Path(f"/dev/fd/{write_end}")) as file:
        file.write("text")
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        assert pipe.read() == "text"


def test_paths_that_cannot_be_written_are_clear_errors(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path, reason in (
        (tmp_path / "file" / "below", os.strerror(errno.ENOTDIR)),
        (tmp_path / "folder", os.strerror(errno.EISDIR)),
    ):
        with pytest.raises(WriteError, match=rf"{path} cannot be written: {reason}"), atomic_write(path):
            pass
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def save_tokenizer(folder):
    Tokenizer(models.BPE(vocab={f"{i:032d}": i for i in range(50_000)}, merges=[])).save(str(folder / "tokenizer.json"))


def save_torch(folder):
    import torch

    with (folder / "state.pt").open("wb") as file:
        torch.save(torch.zeros(2**19), file)


@pytest.mark.parametrize(
    "save",
    [
        lambda folder: (folder / "text").write_text("x" * 2**21),
        lambda folder: save_file({"a": np.zeros(2**19, np.float32)}, folder / "model.safetensors"),
        lambda folder: Image.effect_noise((1000, 2000), 50).save(folder / "noise.png"),
        lambda folder: np.savez(folder / "numbers.npz", a=np.zeros(2**18)),
        save_tokenizer,
        save_torch,
    ],
)
def test_on_a_full_disk_several_files_are_written_together_or_not_at_all(small_disk, save):
    disk = small_disk(1024)
    with atomic_files(disk) as staging:
        (staging / "old").write_text("old")
    for folder in (disk, disk / "new"):
        message = rf"^{folder} cannot be written: No space left on device; free space there, or choose another place$"
        with pytest.raises(WriteError, match=message), atomic_files(folder) as staging:
            (staging / "old").write_text("new")
            save(staging)
    assert [path.name for path in disk.iterdir()] == ["old"] and (disk / "old").read_text() == "old"


def test_names_may_be_as_long_as_the_system_allows(tmp_path):
    for name in ("ü" * 127, "a" * 255):
        with atomic_write(tmp_path / name) as file:
            file.write("text")
        assert (tmp_path / name).read_text() == "text"
    with (
        pytest.raises(WriteError, match="a cannot be written: File name too long"),
        atomic_write(tmp_path / (name * 2)),
    ):
        pass


def test_the_error_names_the_result_and_not_its_staging_folder(tmp_path):
    for path, named in ((".staging/model", "out"), ("out/model", "out/model")):
        message = rf"^{tmp_path / named} cannot be written: No space"
        with pytest.raises(WriteError, match=message), writing(tmp_path / "out"), writing(tmp_path / path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [RuntimeError("our own"), ValueError("Errno"), SettingError("a setting")])
def test_other_errors_are_passed_on(error):
    with pytest.raises(type(error), match=str(error)), writing(Path("out")):
        raise error


def test_readers_never_see_a_part(tmp_path):
    path, seen, done = tmp_path / "file", set(), threading.Event()
    path.write_text("0" * 100_000)

    def read():
        while not done.is_set():
            text = path.read_text()
            seen.add((len(text), len(set(text))))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 10):
        with atomic_write(path) as file:
            for _ in range(10):
                file.write(str(number) * 10_000)
    done.set()
    reader.join()
    assert seen == {(100_000, 1)}

"""Staging folders: what a killed run leaves, two runs at once, and results that cannot be put into their place."""

import errno
import os
from pathlib import Path

import pytest

from penguin_engine.export.staging import check_movable, put_into_place, staging, writing
from penguin_models.errors import EngineError


def test_it_is_gone_at_the_end_also_of_a_failure(tmp_path):
    with staging(tmp_path / "new" / ".staging", tmp_path / "out") as folder:
        (folder / "half").write_text("")
    with pytest.raises(KeyboardInterrupt), staging(tmp_path / "new" / ".staging", tmp_path / "out"):
        raise KeyboardInterrupt
    assert list((tmp_path / "new").iterdir()) == []


def test_what_a_killed_run_left_is_removed(tmp_path):
    left = tmp_path / ".staging"
    (left / "export").mkdir(parents=True)
    for name in ("lock", "half", "export/weights"):
        (left / name).write_text("")
    with staging(left, tmp_path / "out") as folder:
        assert [path.name for path in folder.iterdir()] == ["lock"]


def test_what_another_process_writes_is_left_alone(tmp_path):
    with staging(tmp_path / ".staging", tmp_path / "out") as folder:
        (folder / "half").write_text("")
        with (
            pytest.raises(EngineError, match=r"another process is writing .*/out; wait for its end, or choose another"),
            staging(tmp_path / ".staging", tmp_path / "out"),
        ):
            pass
        assert (folder / "half").is_file()


def test_a_lock_whose_file_was_just_removed_holds_nothing(tmp_path, monkeypatch):
    opened = os.open

    def open_and_lose(path, flags):
        lock = opened(path, flags)
        path.unlink()  # as its holder does at its end
        path.write_text("")
        return lock

    monkeypatch.setattr("penguin_engine.export.staging.os.open", open_and_lose)
    with pytest.raises(EngineError, match="another process"), staging(tmp_path / ".staging", tmp_path / "out"):
        pass


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EngineError, match=r"file/out cannot be written \(.*Not a directory.*\); make room there, or"),
        staging(tmp_path / "file" / ".staging", tmp_path / "file" / "out"),
    ):
        pass


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        Exception("No space left on device (os error 28)"),  # of a library that is written in Rust
    ],
)
def test_a_full_disk(error):
    message = r"^out cannot be written \(.*No space left on device.*\); make room there"
    with pytest.raises(EngineError, match=message), writing(Path("out")):
        raise error


def test_other_failures_are_passed_on():
    with pytest.raises(RuntimeError, match="our own"), writing(Path("out")):
        raise RuntimeError("our own")


@pytest.mark.parametrize("place", [".", ".."])
def test_a_folder_in_which_the_command_runs_is_not_replaced(tmp_path, monkeypatch, place):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with pytest.raises(EngineError, match="would be replaced while this command runs in it; choose another"):
        check_movable(Path(place).resolve())
    check_movable(tmp_path / "b")


def test_a_mount_point_is_not_replaced():
    with pytest.raises(EngineError, match="/proc is a mount point, which cannot be replaced; choose a folder inside"):
        check_movable(Path("/proc"))


def test_what_was_there_comes_back(tmp_path, monkeypatch):
    for name in ("staged", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    rename = Path.rename

    def fail(path, target):
        if path.name == "staged":
            raise KeyboardInterrupt
        return rename(path, target)

    paths = [tmp_path / name for name in ("staged", "target", "aside")]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", fail)
        put_into_place(*paths)
    assert (tmp_path / "target" / "target").is_file() and not (tmp_path / "aside").exists()
    put_into_place(*paths)
    assert (tmp_path / "target" / "staged").is_file() and (tmp_path / "aside" / "target").is_file()

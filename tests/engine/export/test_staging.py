"""Staging folders: cleaning up after killed runs, two runs at once, and results that cannot be put into place."""

from pathlib import Path

import pytest

from penguin_engine.export.staging import check_movable, put_into_place, staging
from penguin_models.errors import EngineError, WriteError


def test_staging_folder_is_removed_after_success_and_failure(tmp_path):
    with staging(tmp_path / "new" / ".staging", tmp_path / "out") as folder:
        (folder / "half").write_text("")
    with pytest.raises(KeyboardInterrupt), staging(tmp_path / "new" / ".staging", tmp_path / "out"):
        raise KeyboardInterrupt
    assert list((tmp_path / "new").iterdir()) == []


def test_files_of_a_killed_run_are_removed(tmp_path):
    left = tmp_path / ".staging"
    (left / "export").mkdir(parents=True)
    for name in ("lock", "half", "export/weights"):
        (left / name).write_text("")
    with staging(left, tmp_path / "out") as folder:
        assert [path.name for path in folder.iterdir()] == ["lock"]


def test_second_run_is_refused_and_leaves_the_first_alone(tmp_path):
    with staging(tmp_path / ".staging", tmp_path / "out") as folder:
        (folder / "half").write_text("")
        with (
            pytest.raises(
                EngineError, match=r"another process is writing .*/out; wait until it ends, or choose another"
            ),
            staging(tmp_path / ".staging", tmp_path / "out"),
        ):
            pass
        assert (folder / "half").is_file()


def test_place_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(WriteError, match=r"file/out cannot be written: Not a directory; .* choose another place"),
        staging(tmp_path / "file" / ".staging", tmp_path / "file" / "out"),
    ):
        pass


@pytest.mark.parametrize("place", [".", ".."])
def test_working_directory_is_not_replaced(tmp_path, monkeypatch, place):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with pytest.raises(EngineError, match="would be replaced while it is the working directory of this command"):
        check_movable(Path(place).resolve())
    check_movable(tmp_path / "b")


def test_mount_point_is_not_replaced():
    with pytest.raises(EngineError, match="/proc is a mount point, which cannot be replaced; choose a folder inside"):
        check_movable(Path("/proc"))


def test_earlier_folder_is_restored_if_renaming_fails(tmp_path, monkeypatch):
    for name in ("staged", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    rename = Path.rename

    def fail(path, target):
        if path.name == "staged":
            raise KeyboardInterrupt
        return rename(path, target)

    paths = [tmp_path / name for name in ("staged", "target", "backup")]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", fail)
        put_into_place(*paths)
    assert (tmp_path / "target" / "target").is_file() and not (tmp_path / "backup").exists()
    put_into_place(*paths)
    assert (tmp_path / "target" / "staged").is_file() and (tmp_path / "backup" / "target").is_file()

"""A path that holds no image or video is refused in one sentence with the cause and the remedy."""

import os
import socket
from pathlib import Path

import pytest

from penguin_models.errors import MediaError
from penguin_models.file_checks import check_file, url_fault
from penguin_models.media import VideoFile, load_image

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
READERS = pytest.mark.parametrize(("kind", "read"), [("image", load_image), ("video", VideoFile)])


@READERS
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\); copy it again"),
        (LFS, "is a Git LFS pointer, not the file itself; .*: git lfs pull"),
        (b"/annex/objects/SHA256E-s1--0.jpg\n", "is a git-annex pointer, .*: git annex get"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "is a web page; download the file itself"),
        (b"\xef\xbb\xbf\n <HTML lang='en'>", "is a web page; download the file itself"),
        (b"<!-- saved --><html><svg></svg></html>", "is a web page; download the file itself"),
        (b"<!-- drawn --> <svg/>", "is an SVG drawing; convert it to PNG"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is an XML document, .* download the file"),
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg width='9'/>", "is an SVG drawing; convert it to PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing; convert it to PNG"),
        (b"%PDF-1.7\n", "is a PDF document; convert its page to PNG"),
        (b"PK\x03\x04" + bytes(20), "is an archive; unpack it"),
        (b"\x1f\x8b\x08" + bytes(20), "is an archive; unpack it"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/a.mp4\n", "is a playlist; give the video that it names"),
        (b"\x89MCAP0\r\n" + bytes(20), r"is a bag; use it as a bag \(--bag\)"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path, kind, read, content, message):
    path = tmp_path / "x.dat"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=rf"^{kind} {path} {message}"):
        read(path)


@READERS
def test_paths_that_are_no_files_are_named(tmp_path, kind, read):
    def error(path):
        with pytest.raises(MediaError) as caught:
            read(path)
        return str(caught.value)

    assert error(tmp_path / "none") == f"{kind} {tmp_path / 'none'} does not exist"
    assert error(tmp_path) == f"{kind} {tmp_path} is a folder; give a file"
    assert "/dev/null is a device or a pipe; for a live camera" in error("/dev/null")
    os.mkfifo(tmp_path / "fifo")
    assert "is a device or a pipe" in error(tmp_path / "fifo")  # opening it would wait for ever
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        assert "is a device or a pipe" in error(tmp_path / "s")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be read: Too many levels of symbolic links" in error(tmp_path / "loop")
    assert "cannot be read: File name too long" in error(tmp_path / ("x" * 300))
    assert "embedded null" in error("a\0b")
    (tmp_path / "annexed").symlink_to(".git/annex/objects/xx/SHA256E-s1--0")
    assert "is not in this clone yet; fetch it: git annex get" in error(tmp_path / "annexed")


@READERS
def test_a_file_without_permission_is_named(tmp_path, kind, read, monkeypatch):
    """Also in a folder that cannot be entered; the administrator, who may read everything, is stood in for."""
    path = tmp_path / "x.dat"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.geteuid() == 0:

        def refuse(self, *args, **kwargs):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(MediaError, match=rf"^{kind} .*x.dat cannot be read: Permission denied; .*chmod"):
        read(path)


@READERS
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://example.org/a%20b.jpg", r"https://example.org/a%20b.jpg is a URL, .*; download it first"),
        ("HTTP://example.org/x.mp4", r"http://example.org/x.mp4 is a URL, .*; download it first"),
        ("s3://bucket/x.mp4", r"s3://bucket/x.mp4 is a URL, .*; download it first"),
        ("file:///home/a%20b.jpg", r"file:///home/a%20b.jpg is a URL; give the path: /home/a b.jpg"),
        ("data:image/png;base64,iVBORw0KGgo=", r"data:image/png;base64,\.\.\. is a data: URI, .*; decode it to a file"),
        ("data:;base64,iVBORw0KGgo=", r"data:;base64,\.\.\. is a data: URI, and only files are read"),
        ("data:video/mp4;base64," + "A/b0" * 2000, r"data:video/mp4;base64,\.\.\. is a data: URI, and only files are"),
        ("rtsp://camera:554/live", r"rtsp://camera:554/live is a URL, .*; start a camera driver .* running node"),
    ],
)
def test_urls_are_not_taken_for_paths(tmp_path, kind, read, url, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (url, Path(url), tmp_path / url):  # pathlib leaves one slash of two
        with pytest.raises(MediaError, match=rf"^{kind} {message}"):
            read(path)


def test_names_with_colons_are_no_urls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("2024-01-01T10:00:00.jpg", "c:/x.jpg", "a:b", "a b://c", "data:a.png", "data:/a.png"):
        assert url_fault(name, "image") is None
    (tmp_path / "http:").mkdir()
    (tmp_path / "http:" / "x").write_bytes(b"abc")
    assert check_file("http://x", "image") == b"abc"

"""The command line: results as JSON and as text, exit codes, and one clear line for each error."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from ament_index_python.packages import get_package_prefix
from command_line import execute, schema
from PIL import Image

CLIP = Path(__file__).resolve().parents[1] / "data" / "clip.mp4"


@pytest.fixture
def asking(checkpoint):
    """Arguments of a short question to the small checkpoint; later arguments override them."""
    return ["ask", "--model", checkpoint, "--question", "What is this?", "--max-tokens", 64, "--max-new-tokens", 4]


@pytest.fixture
def tabletop(reference):
    return reference / "media" / "tabletop.png"


def write_video(path, frames, **options):
    """A video at 10 frames a second."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.start_encoding()
        container.mux(stream.encode(None))
    return path


# The executable itself.


def test_executable_answers_about_an_image(asking, tabletop, tmp_path):
    answer = execute(*asking, "--image", tabletop, "--json", folder=tmp_path).json
    assert schema(answer) == {
        **dict.fromkeys(("answer", "raw", "ended_by"), "str"),
        **dict.fromkeys(("objects", "time_ranges", "notes"), "list"),
        **dict.fromkeys(("malformed_boxes", "frames", "keyframes", "turns_used", "turns_forgotten"), "int"),
        "tokens": dict.fromkeys(("visual", "prompt", "generated"), "int"),
        "seconds": dict.fromkeys(("read", "encode", "prefill", "decode"), "float"),
    }
    assert (answer["frames"], answer["keyframes"], answer["ended_by"]) == (1, 1, "length")
    assert answer["tokens"]["generated"] == 4
    assert 24 <= answer["tokens"]["visual"] <= 64 < answer["tokens"]["prompt"]


def test_executable_says_what_is_wrong_in_one_line(asking, tmp_path):
    result = execute(*asking, "--image", "missing.png", folder=tmp_path)
    assert result.error == "image missing.png does not exist"
    assert result.out == ""


def test_executable_without_network(tmp_path):
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(tmp_path)}
    question = ("ask", "--model", "tencent/Penguin-VL-2B", "--revision", "v1", "-q", "What?")
    result = execute(*question, folder=tmp_path, **environment)
    assert result.error.endswith("download it: hf download tencent/Penguin-VL-2B --revision v1")
    assert result.out == ""


def test_executable_needs_a_question(tmp_path):
    result = execute("ask", "--model", "anything", folder=tmp_path)
    assert result.code == 2 and "give one question" in result.err and "Traceback" not in result.err


def test_a_workspace_puts_the_command_on_the_path():
    """`ros2 run` looks in another folder, which is not on the path: the command is there too."""
    prefix = Path(get_package_prefix("penguin_vl"))
    script = f". '{prefix}/share/penguin_vl/local_setup.sh' && command -v penguin-vl"
    environment = {"PATH": os.pathsep.join(("/usr/bin", "/bin"))}
    found = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert found.stdout.strip() == str(prefix / "bin" / "penguin-vl")
    assert os.access(prefix / "lib" / "penguin_vl" / "penguin-vl", os.X_OK)


# Answers.


def test_an_answer_streams_and_ends_with_its_cost(cli, asking, tabletop, monkeypatch):
    class Terminal(io.StringIO):
        """Remembers what was visible at each flush."""

        def __init__(self):
            super().__init__()
            self.seen = []

        def flush(self):
            if self.getvalue() not in self.seen:
                self.seen.append(self.getvalue())

    args = [*asking, "--image", tabletop, "--max-new-tokens", 12]
    raw = cli(*args, "--json").json["raw"]
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert cli(*args).code == 0
    growing = [text for text in terminal.seen if len(text) <= len(raw)]
    assert len(growing) > 3 and growing[-1] == raw
    assert all(later.startswith(earlier) for earlier, later in pairwise(growing))
    cost = r"\n+1 frames \(1 key\), \d+ visual \+ \d+ text tokens in, 12 out \(length\); read \d+\.\d\d s, encode .*\n"
    assert re.fullmatch(cost, terminal.getvalue().removeprefix(raw))


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_chat_reads_a_question_per_line_and_goes_on_after_a_bad_one(cli, asking, tabletop, monkeypatch, is_terminal):
    typed = io.TextIOWrapper(io.BytesIO(b"And this?\n\n\xff\n<image>\nWhy?\n"), errors="surrogateescape")
    monkeypatch.setattr(typed, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr("sys.stdin", typed)
    result = cli(*asking, "--chat", "--image", tabletop, "--system", "Be brief.")
    assert result.code == 1 and result.out.count(" visual + ") == 3, result.err
    assert [line[:32] for line in result.err.splitlines()] == [
        "error: the question or message i",
        "error: the text contains '<image",
    ]
    assert re.findall(r"earlier turns: (\d) in the prompt", result.out) == ["1", "2"]


def test_a_chat_as_json_has_a_line_for_each_question(cli, asking, tabletop, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("<image>\nIs it red?\n"))
    options = ["--chat", "--image", tabletop, "--json", "--schema", "objects", "--max-new-tokens", 40]
    result = cli(*asking, *options, "--question", "What is there?")
    first, refused, last = map(json.loads, result.out.splitlines())
    assert [answer["question"] for answer in (first, refused, last)] == ["What is there?", "<image>", "Is it red?"]
    assert result.code == 1 and refused["error"] in result.err and last["turns_used"] == 1
    assert all(json.loads(answer["answer"]).keys() == {"objects"} for answer in (first, last))


@pytest.mark.parametrize("budget", [200, 96])
def test_several_images_share_the_budget(cli, asking, reference, budget):
    """Each needs at least 24 tokens, so 96 are enough for three, although they differ in size."""
    images = [reference / "media" / f"{name}.png" for name in ("tabletop", "portrait", "manifest")]
    options = [argument for image in images for argument in ("--image", image)]
    answer = cli(*asking, "--max-tokens", budget, "--json", *options).json
    assert (answer["frames"], answer["keyframes"]) == (3, 3)
    assert 72 <= answer["tokens"]["visual"] <= budget


def test_a_question_without_pictures(cli, asking):
    answer = cli(*asking, "--json").json
    assert (answer["frames"], answer["tokens"]["visual"]) == (0, 0)


@pytest.mark.parametrize(("fps", "max_frames", "frames"), [(1, 180, 6), (2, 180, 12), (2, 5, 5)])
def test_a_video(cli, asking, fps, max_frames, frames):
    options = ("--fps", fps, "--max-frames", max_frames, "--max-tokens", 400)
    answer = cli(*asking, "--video", CLIP, *options, "--json").json
    assert answer["frames"] == frames and 1 <= answer["keyframes"] <= frames
    assert 24 * frames <= answer["tokens"]["visual"] <= 400


def test_a_video_shorter_than_a_sample_shows_one_frame(cli, asking, tmp_path):
    answer = cli(*asking, "--video", write_video(tmp_path / "short.mp4", frames=5), "--json").json
    assert (answer["frames"], answer["keyframes"]) == (1, 1)


def test_a_bag_with_a_choice_of_topics(cli, asking, bags, picture):
    frames = [(second, bags.jpeg(picture(60, 80, second))) for second in range(3)]
    args = [*asking, "--bag", bags.write({"/front": frames, "/rear": frames[:2]}), "--max-tokens", 400]
    assert cli(*args).error.endswith("has several image topics, choose one with --topic: /front, /rear")
    assert cli(*args, "--topic", "/front", "--json").json["frames"] == 3
    assert cli(*args, "--topic", "/rear", "--json").json["frames"] == 2


def test_save_writes_an_image_of_the_same_size(cli, asking, tabletop, tmp_path):
    out = tmp_path / "overlay.png"
    assert cli(*asking, "--image", tabletop, "--save", out).code == 0
    with Image.open(out) as saved, Image.open(tabletop) as original:
        assert saved.size == original.size


def test_save_of_a_clip_writes_its_last_frame(cli, asking, bags, tmp_path):
    """The small checkpoint writes no boxes, so the frame itself is saved."""
    frames = [np.full((60, 80, 3), 50 * number, np.uint8) for number in range(3)]
    bag = bags.write({"/camera": [(number, bags.raw(rgb)) for number, rgb in enumerate(frames)]})
    out = tmp_path / "overlay.png"
    answer = cli(*asking, "--max-tokens", 400, "--bag", bag, "--save", out, "--json").json
    assert (answer["frames"], answer["objects"]) == (3, [])
    with Image.open(out) as saved:
        np.testing.assert_array_equal(np.array(saved), frames[-1])


# Bad input.


def write_bytes(path, data):
    path.write_bytes(data)
    return path


def truncated(path, source):
    return write_bytes(path, source.read_bytes()[: source.stat().st_size // 2])


BAD_MEDIA = {
    "missing image": (lambda p, _: ["--image", p / "x.png"], "image .*x.png does not exist"),
    "image is a folder": (lambda p, _: ["--image", p], "image .* is a folder; give a file"),
    "empty image": (lambda p, _: ["--image", write_bytes(p / "x.png", b"")], r"x.png is empty \(0 bytes\)"),
    "truncated image": (
        lambda p, media: ["--image", truncated(p / "x.png", media / "tabletop.png")],
        "image .*x.png cannot be decoded: .*truncated",
    ),
    "large image": (
        lambda _, media: ["--image", media / "tabletop.png", "--max-image-pixels", 1000],
        r"tabletop.png cannot be decoded: it has \d+x\d+ = \d+ pixels, the limit is 1000; .* raise max_image_pixels",
    ),
    "large video": (lambda *_: ["--video", CLIP, "--max-image-pixels", 1000], r"video .* pixels, the limit is 1000"),
    "missing video": (lambda p, _: ["--video", p / "x.mp4"], "video .*x.mp4 does not exist"),
    "text as video": (
        lambda p, _: ["--video", write_bytes(p / "x.mp4", b"hello\n" * 99)],
        "video .*x.mp4 cannot be opened: .*Invalid data",
    ),
    "truncated video": (lambda p, _: ["--video", truncated(p / "x.mp4", CLIP)], "video .*x.mp4 cannot be opened"),
    "video without a stream": (lambda p, _: ["--video", write_video(p / "x.mp4", 0)], "x.mp4 has no video stream"),
    "video without frames": (
        lambda p, _: ["--video", write_video(p / "x.mp4", 0, movflags="frag_keyframe+empty_moov")],
        "video .*x.mp4 has no frames",
    ),
    "endless rate": (lambda p, _: ["--video", CLIP, "--fps", "inf"], "fps inf"),
    "missing bag": (lambda p, _: ["--bag", p / "x.mcap"], "bag .*x.mcap does not exist"),
    "zero-byte bag": (lambda p, _: ["--bag", write_bytes(p / "x.mcap", b"")], r"x.mcap is empty \(0 bytes\)"),
    "folder as bag": (lambda p, _: ["--bag", p], "holds no .mcap, .db3 or .bag file; give the folder of a bag"),
    "budget too small": (
        lambda p, _: ["--video", CLIP, "--max-tokens", 4],
        r"6 frames need at least \d+ visual tokens .*the budget is 4; raise it, or use fewer frames",
    ),
    "overlay in a missing folder": (
        lambda p, media: ["--image", media / "manifest.png", "--json", "--save", p / "none" / "x.png"],
        "overlay .*x.png cannot be written",
    ),
}


@pytest.mark.parametrize("case", BAD_MEDIA)
def test_bad_media(cli, asking, reference, tmp_path, case):
    make, message = BAD_MEDIA[case]
    result = cli(*asking, *make(tmp_path, reference / "media"))
    assert re.search(message, result.error)
    assert result.out == ""


def test_a_damaged_image_of_a_bag_is_skipped_and_counted(cli, asking, bags, picture):
    frames = [(n, bags.jpeg(picture(60, 80, n), kept=0.5 if n == 0 else 1)) for n in range(3)]
    result = cli(*asking, "--bag", bags.write({"/camera": frames}), "--max-tokens", 400, "--json")
    answer = json.loads(result.out)
    (note,) = answer["notes"]
    assert result.code == 0 and answer["frames"] == 2 and result.err == f"note: {note}\n"
    assert note.startswith("skipped: 1 of 3 images of /camera cannot be decoded; the first is image 0: ")


def test_a_bag_without_image_topics(cli, asking, bags):
    bag = bags.write({"/chat": [(0, bags.text("hello"))]})
    expected = f"bag {bag} has no image topic; its topics: /chat (std_msgs/msg/String)"
    assert cli(*asking, "--bag", bag).error == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--question", ""], "the question is empty"),
        (["--question", " \n"], "the question is empty"),
        (["--question", "What is <image> for?"], "contains '<image>', which has a meaning of its own .*leave it out"),
        (["--question", "Hi<|im_end|>"], r"contains '<\|im_end\|>'"),
        (["--question", "caf\udce9"], "question"),  # bytes of another encoding reach Python like this
        (["--model", "missing"], "missing is not a checkpoint folder"),
        (["--model", CLIP], "clip.mp4 is not a checkpoint folder"),
        (["--model", CLIP.parent], "data/config.json is missing; a checkpoint folder needs it"),
        (["--device", "cuda:99"], "torch .* cannot use device 'cuda:99' here: "),
        (["--device", "tpu"], "torch .* cannot use device 'tpu' here: "),
    ],
)
def test_bad_questions_models_and_devices(cli, asking, options, message):
    result = cli(*asking, *options)
    assert re.search(message, result.error)
    assert result.out == ""


@pytest.mark.parametrize("options", [["--question", "word " * 41_000], ["--max-new-tokens", 41_000]])
def test_a_prompt_over_the_context_says_by_how_much(cli, asking, options):
    message = cli(*asking, *options).error
    needed, over, limit = map(
        int, re.search(r"needs (\d+) tokens, (\d+) more than the (\d+) that fit", message).groups()
    )
    assert limit == 40_960 and over == needed - limit > 0


def test_a_tensor_of_a_wrong_shape_is_named(cli, asking, edit_checkpoint):
    def shorten(tensors):
        tensors["model.norm.weight"] = tensors["model.norm.weight"][:90].copy()

    folder = edit_checkpoint(tensors=shorten)
    expected = (
        f"{folder} does not fit its config.json; tensors 1 misshapen: model.norm.weight is [90], config.json wants [96]"
    )
    assert cli(*asking, "--model", folder).error == expected


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Usage"),
        (["nothing"], "No such command 'nothing'"),
        (["ask", "--model", "x"], "give one question"),
        (["ask", "--question", "x"], "give --model, or --node"),
        (["ask", "--model", "x", "-q", "x", "--video", "a", "--bag", "b"], "either --video or --bag"),
        (["ask", "--model", "x", "-q", "x", "--topic", "/a"], "--topic: it goes with --bag"),
        (["ask", "--model", "x", "-q", "x", "--topic", "/a", "--video", "b"], "--topic: it goes with --bag"),
        (["ask", "--model", "x", "-q", "x", "--save", "a.png"], "there is no image to draw into"),
        (["ask", "--model", "x", "-q", "x", "--image", "a.png", "--fps", "1"], "--fps: it goes with --video or --bag"),
        (["ask", "--model", "x", "-q", "x", "--max-image-pixels", "9"], "it goes with --image, --video or --bag"),
        (["ask", "--model", "x", "-q", "x", "--camera", "/a"], "--camera: it goes with --node"),
        (["ask", "--model", "x", "-q", "x", "--horizon", "3"], "--horizon: it goes with --node"),
        (["ask", "--node", "/a", "-q", "x", "--temperature", "1"], "leave out --temperature"),
        (["ask", "--node", "/a", "-q", "x", "--model", "x"], "leave out --model"),
        (["ask", "--node", "/a", "--chat", "--system", "x"], "leave out --system"),
        (["ask", "--model", "x", "x", "-q", "x", "--chat"], "give one question"),
        (["ask", "--model", "x", "--chat", "--image", "a.png", "--save", "b.png"], "leave out --chat"),
        (["ask", "--model", "x", "-q", "x", "--schema", "/nowhere"], "'/nowhere' cannot be read: No such file"),
        (
            ["ask", "--model", "x", "-q", "x", "--image", "a.png", "--policy", "novelty"],
            "--policy: it goes with --video",
        ),
        (["ask", "--model", "x", "-q", "x", "--top-p", "0.5"], "--top-p: it goes with --temperature above 0"),
        (["ask", "--model", "x", "-q", "x", "--seed", "1"], "--seed: it goes with --temperature above 0"),
        (["ask", "--model", "x", "-q", "x", "--allocation", "loose"], "Invalid value for '--allocation'"),
        (["ask", "--model", "x", "-q", "x", "--dtype", "float8"], "Invalid value for '--dtype'"),
        (["ask", "--model", "x", "-q", "x", "--temperature", "1", "--top-p", "0"], "0.0 is not above 0 and at most 1"),
        (["ask", "--model", "x", "-q", "x", "--fps", "0"], "Invalid value for '--fps'"),
        (["ask", "--model", "x", "-q", "x", "--max-tokens", "0"], "Invalid value for '--max-tokens'"),
        (["ask", "--model", "x", "-q", "x", "--seed", "-1"], "Invalid value for '--seed'"),
        (["parity"], "Missing argument"),
        (["bench", "model", "--dtype", "int8"], "Invalid value for '--dtype'"),
    ],
)
def test_bad_usage(cli, args, message):
    result = cli(*args)
    assert result.code == 2
    assert message in result.out + result.err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "input or output failed: No space left on device"),
        (OSError(errno.EROFS, "Read-only", "/a/b"), "/a/b cannot be read or written: Read-only"),
    ],
)
def test_an_error_of_the_system_that_no_command_expects_is_one_line(cli, monkeypatch, error, message):
    def fail(*args):
        raise error

    monkeypatch.setattr("penguin_ros.cli.app.app", fail)
    assert cli("doctor").error == message

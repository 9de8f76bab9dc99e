"""The command line: results as JSON and as text, exit codes, and one clear line for whatever goes wrong."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from penguin_engine import bench
from penguin_models.errors import CheckpointError
from penguin_models.types import Size
from penguin_ros.cli import pull
from penguin_ros.cli.main import main

CLIP = Path(__file__).resolve().parents[1] / "data" / "clip.mp4"


@dataclass
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1 and self.err == ""
        return json.loads(self.out)

    @property
    def error(self):
        """The one line that a failed command says."""
        assert self.code == 1, (self.code, self.out, self.err)
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")


def execute(*args, folder, **environment):
    """Runs the real executable, away from the repository."""
    command = [sys.executable, "-m", "penguin_ros.cli.main", *map(str, args)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """More threads gain nothing with so small a model, and where cores are busy they wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cli(monkeypatch, capsys):
    """Runs the same entry point in this process; an exception that would end in a trace fails the test."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["penguin-vl", *map(str, args)])
        with pytest.raises(SystemExit) as raised:
            main()
        return Result(raised.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def asking(checkpoint):
    """Arguments of a short question to the small checkpoint; what is added later replaces what is here."""
    return ["ask", "--model", checkpoint, "--question", "What is this?", "--max-tokens", 64, "--max-new-tokens", 4]


@pytest.fixture
def tabletop(reference):
    return reference / "media" / "tabletop.png"


def schema(value):
    """A JSON value with types in the place of its leaves."""
    if isinstance(value, dict):
        return {key: schema(inner) for key, inner in value.items()}
    return type(value).__name__


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
        **dict.fromkeys(("objects", "time_ranges"), "list"),
        **dict.fromkeys(("malformed_boxes", "frames", "key_frames"), "int"),
        "tokens": dict.fromkeys(("visual", "prompt", "generated"), "int"),
        "seconds": dict.fromkeys(("read", "encode", "prefill", "decode"), "float"),
    }
    assert (answer["frames"], answer["key_frames"], answer["ended_by"]) == (1, 1, "length")
    assert answer["tokens"]["generated"] == 4
    assert 24 <= answer["tokens"]["visual"] <= 64 < answer["tokens"]["prompt"]


def test_executable_says_what_is_wrong_in_one_line(asking, tmp_path):
    result = execute(*asking, "--image", "missing.png", folder=tmp_path)
    assert result.error == "image missing.png does not exist"
    assert result.out == ""


def test_executable_without_network(tmp_path):
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(tmp_path)}
    result = execute("pull", "tencent/Penguin-VL-2B", folder=tmp_path, **environment)
    assert result.error.startswith("the model hub cannot be reached for tencent/Penguin-VL-2B")
    assert result.out == ""


def test_executable_wants_a_question(tmp_path):
    result = execute("ask", "--model", "anything", folder=tmp_path)
    assert result.code == 2 and "give one question" in result.err and "Traceback" not in result.err


# Answers.


def test_a_plain_answer_streams_and_ends_with_its_cost(cli, asking, tabletop, monkeypatch):
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


@pytest.mark.parametrize("budget", [200, 96])
def test_several_images_share_the_budget(cli, asking, reference, budget):
    """Each needs at least 24 tokens, so that 96 are enough for three, though they differ in size."""
    images = [reference / "media" / f"{name}.png" for name in ("tabletop", "portrait", "manifest")]
    given = [argument for image in images for argument in ("--image", image)]
    answer = cli(*asking, "--max-tokens", budget, "--json", *given).json
    assert (answer["frames"], answer["key_frames"]) == (3, 3)
    assert 72 <= answer["tokens"]["visual"] <= budget


def test_a_question_without_pictures(cli, asking):
    answer = cli(*asking, "--json").json
    assert (answer["frames"], answer["tokens"]["visual"]) == (0, 0)


@pytest.mark.parametrize(("fps", "max_frames", "frames"), [(1, 180, 6), (2, 180, 12), (2, 5, 5)])
def test_a_video(cli, asking, fps, max_frames, frames):
    options = ("--fps", fps, "--max-frames", max_frames, "--max-tokens", 400)
    answer = cli(*asking, "--video", CLIP, *options, "--json").json
    assert answer["frames"] == frames and 1 <= answer["key_frames"] <= frames
    assert 24 * frames <= answer["tokens"]["visual"] <= 400


def test_a_video_shorter_than_a_sample_shows_one_frame(cli, asking, tmp_path):
    answer = cli(*asking, "--video", write_video(tmp_path / "short.mp4", frames=5), "--json").json
    assert (answer["frames"], answer["key_frames"]) == (1, 1)


def test_a_bag_with_a_choice_of_topics(cli, asking, bags, picture):
    frames = [(second, bags.jpeg(picture(60, 80, second))) for second in range(3)]
    args = [*asking, "--bag", bags.write({"/front": frames, "/rear": frames[:2]}), "--max-tokens", 400]
    assert cli(*args).error.endswith("has several image topics, choose one with --topic: /front, /rear")
    assert cli(*args, "--topic", "/front", "--json").json["frames"] == 3
    assert cli(*args, "--topic", "/rear", "--json").json["frames"] == 2


def test_save_writes_an_image_of_the_same_size(cli, asking, tabletop, tmp_path):
    out = tmp_path / "overlay.png"
    assert cli(*asking, "--image", tabletop, "--save", out).code == 0
    with Image.open(out) as saved, Image.open(tabletop) as given:
        assert saved.size == given.size


def test_save_of_a_clip_draws_into_its_last_frame(cli, asking, bags, tmp_path):
    """The small checkpoint says nothing that looks like a box, so that the frame itself is saved."""
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
    "image is a folder": (lambda p, _: ["--image", p], "image .* cannot be decoded: .*[Dd]irectory"),
    "empty image": (lambda p, _: ["--image", write_bytes(p / "x.png", b"")], "x.png is not an image"),
    "truncated image": (
        lambda p, media: ["--image", truncated(p / "x.png", media / "tabletop.png")],
        "image .*x.png cannot be decoded: .*truncated",
    ),
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
    "folder as bag": (lambda p, _: ["--bag", p], "has no metadata.yaml; give the folder of a bag"),
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
    needed, over, limit = map(int, re.search(r"needs (\d+) tokens, (\d+) more than the (\d+) there", message).groups())
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
        (["ask", "--model", "x", "-q", "x", "--topic", "/a"], "--topic goes with --bag"),
        (["ask", "--model", "x", "-q", "x", "--topic", "/a", "--video", "b"], "--topic goes with --bag"),
        (["ask", "--model", "x", "-q", "x", "--save", "a.png"], "there is no image to draw into"),
        (["ask", "--model", "x", "-q", "x", "--allocation", "loose"], "Invalid value for '--allocation'"),
        (["ask", "--model", "x", "-q", "x", "--dtype", "float8"], "Invalid value for '--dtype'"),
        (["ask", "--model", "x", "-q", "x", "--top-p", "0"], "0.0 is not above 0 and at most 1"),
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


# Benchmarks.


def test_bench_tra_measures_both_policies_and_draws_what_they_noticed(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "drawn_clips", partial(bench.drawn_clips, seconds=12.0))
    monkeypatch.setattr(bench, "policy_speed", partial(bench.policy_speed, size=Size(54, 96)))
    monkeypatch.chdir(tmp_path)
    few = ("bench", "tra", "--clips", 1, "--seconds", 0.1, "--json")
    rows = cli(*few).json["policies"]
    assert [row["policy"] for row in rows] == ["NoveltyPolicy", "ReferencePolicy"]
    for row in rows:
        assert row["events"] > 0 and 0 <= row["recall"] <= 1 and row["frames_per_s"] > 0
    with Image.open("build/key-frames.png") as picture:
        assert picture.getextrema() != ((255, 255),) * 3
    pytest.importorskip("pybullet", reason="the table-top needs PyBullet")
    rendered = cli(*few, "--rendered").json["policies"]
    assert rendered[0]["events"] > 0 and rendered[0]["recall"] >= rendered[1]["recall"]
    assert cli(*few, "--plot", "nowhere/x.png").error.startswith("overlay nowhere/x.png cannot be written")


# Parity.


def test_parity_with_the_reference(cli, reference):
    result = cli("parity", reference, "--json").json
    assert result["passed"] is True
    assert result["tolerances"]["logits"] == 2e-4 and result["tolerances"]["pixels"] == 1e-5
    cases = {case["case"]: case for case in result["cases"]}
    assert {"image_tabletop", "image_portrait", "image_small", "video_native", "video_compressed"} < set(cases)
    assert {"chat template", "training labels", "200 allocations", "key frames, clip every 3"} < set(cases)
    assert all(case["passed"] and case["note"] == "" for case in cases.values())
    for name in ("image_tabletop", "video_compressed"):
        assert set(cases[name]["errors"]) == {"pixels", "encoder", "projector", "logits"}
        assert {"ids", "grids", "generated", "text"} <= set(cases[name]["equal"])


@pytest.fixture
def vectors(reference, tmp_path):
    """A copy of the reference vectors with only one case that runs the model."""
    folder = Path(shutil.copytree(reference, tmp_path / "vectors"))
    cases = json.loads((folder / "expected.json").read_text())
    (folder / "expected.json").write_text(json.dumps({"image_small": cases["image_small"]}))
    return folder


@pytest.mark.parametrize(
    ("tensor", "change", "where"),
    [("logits_last8", 1e-3, "logits"), ("encoder", np.nan, "encoder"), ("generated", 1, "generated")],
)
def test_parity_notices_one_changed_number(cli, vectors, tensor, change, where):
    tensors = load_file(vectors / "expected.safetensors")
    tensors[f"image_small.{tensor}"].flat[5] += change
    save_file(tensors, vectors / "expected.safetensors")
    result = cli("parity", vectors, "--json")
    assert (result.code, result.err) == (1, "")
    report = json.loads(result.out)
    (failed,) = [case for case in report["cases"] if not case["passed"]]
    assert report["passed"] is False and failed["case"] == "image_small"
    off = [name for name, error in failed["errors"].items() if not float(error) <= report["tolerances"][name]]
    assert off + [name for name, same in failed["equal"].items() if not same] == [where]


def test_parity_in_words(cli, vectors):
    result = cli("parity", vectors)
    assert result.code == 0 and result.out.endswith("all within tolerance\n")
    labels = json.loads((vectors / "labels.json").read_text())
    labels[1]["labels"][0] += 1
    (vectors / "labels.json").write_text(json.dumps(labels))
    result = cli("parity", vectors)
    assert result.code == 1 and result.out.endswith("1 of 6 cases differ\n")
    assert re.search(r"training labels +3 of 4 +differs: labels 1\b", result.out)


def test_parity_of_an_empty_folder(cli, tmp_path):
    assert cli("parity", tmp_path).error.startswith(f"{tmp_path} has none of expected.json, chat_template.json")


def test_parity_of_a_missing_folder(cli, tmp_path):
    assert cli("parity", tmp_path / "x").error == f"{tmp_path / 'x'} is not a folder of reference vectors"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("expected.safetensors", None),
        ("expected.safetensors", b"abc"),
        ("expected.json", b"{"),
        ("tra_sizes.json", b"[{}]"),
        ("media/manifest.png", None),
        ("checkpoint/config.json", None),
    ],
)
def test_parity_of_broken_vectors(cli, vectors, name, data):
    (vectors / name).unlink()
    if data is not None:
        (vectors / name).write_bytes(data)
    assert name in cli("parity", vectors).error


# The other commands.


def test_doctor_as_json(cli):
    report = cli("doctor", "--json").json
    machine = {finding["name"]: finding for finding in report["machine"]}
    runtimes = {finding["name"]: finding for finding in report["runtimes"]}
    finding = {"name": "str", "value": "str", "present": "bool"}
    assert all(schema(found) == finding for found in [*report["machine"], *report["runtimes"]])
    assert machine["python"]["value"] == f"{sys.version.split()[0]} ({sys.executable})"
    assert machine["torch"]["value"].startswith(torch.__version__)
    assert machine["transformers"] == {
        "name": "transformers",
        "value": metadata.version("transformers"),
        "present": True,
    }
    assert machine["ros"]["present"] and machine["ros"]["value"].endswith("messages of penguin_vl built")
    assert runtimes["runtime torch"]["present"]
    assert ("--device cuda" in runtimes["runtime torch"]["value"]) == torch.cuda.is_available()


def test_doctor_in_words(cli):
    result = cli("doctor")
    assert result.code == 0
    assert re.search(r"^runtime torch +yes: on ", result.out, re.MULTILINE)
    assert re.search(r"^machine +.* cores, .* GiB memory", result.out, re.MULTILINE)


@pytest.mark.parametrize("repo", ["a b", "", "a/b/c"])
def test_pull_of_what_is_no_repository(cli, repo):
    assert cli("pull", repo).error == f"{repo!r} is not a repository name such as tencent/Penguin-VL-2B"


def test_pull_wants_room_on_the_disk(tmp_path):
    expected = rf"a/b needs 1000000000.0 GB, {tmp_path} has \d+\.\d GB free; .* choose another disk with --out"
    with pytest.raises(CheckpointError, match=expected):
        pull._check_space("a/b", tmp_path / "not" / "there", 10**18)

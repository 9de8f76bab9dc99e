"""The command line without some packages: on a robot without torch, or without an extra."""

from pathlib import Path

import pytest
from command_line import execute

from penguin_ros.shipped import MODEL

CLIP = Path(__file__).resolve().parents[1] / "data" / "clip.mp4"
HEAVY = ("torch", "transformers", "onnx", "ml_dtypes", "safetensors")
LEAN = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # importing it fails as if it were not installed
sys.argv[1:] = sys.argv[2:]
from penguin_ros.cli.main import main
main()
"""


def execute_without(missing, *args):
    return execute(",".join(missing), *args, code=("-c", LEAN))


def test_bench_session_runs_without_torch(exported):
    asked = ("bench", "session", "--model", exported(profile="onnxruntime"), "--runtime", "onnx", "--tokens", 391)
    result = execute_without(HEAVY, *asked, "--json").json
    (row,) = result["sessions"]
    assert result["machine"]["torch"] is None and row["fresh_over_reused"] > 0
    assert row["offline_s"] is row["offline_over_reused"] is None
    line = execute_without(HEAVY, *asked)
    assert line.code == 0 and "no torch" in line.out and "offline" not in line.out


def test_ask_about_a_video_without_torch(exported):
    model = ("--model", exported(profile="onnxruntime"), "--runtime", "onnx", "--max-new-tokens", 2)
    asked = ("ask", *model, "-q", "What?", "--video", CLIP, "--max-frames", 3)
    assert "needs torch: pip install torch, or take --policy novelty" in execute_without(HEAVY, *asked).error
    answer = execute_without(HEAVY, *asked, "--policy", "novelty", "--json").json
    assert answer["frames"] == 3 and answer["tokens"]["generated"] == 2


def test_only_videos_need_pyav(exported, reference):
    model = ("--model", exported(profile="onnxruntime"), "--runtime", "onnx")
    question = ("ask", *model, "-q", "What?", "--max-tokens", 64, "--max-new-tokens", 2)
    image = ("--image", reference / "media" / "tabletop.png")
    assert execute_without(["av"], *question, *image, "--json").json["tokens"]["generated"] == 2
    error = execute_without(["av"], *question, "--video", CLIP, "--policy", "novelty").error
    assert error == "reading videos needs PyAV, which is not installed: pip install av"


def test_only_bags_need_rosbags(checkpoint):
    error = execute_without(["rosbags"], "ask", "--model", checkpoint, "-q", "What?", "--bag", "B").error
    assert error == "this command needs the Python package rosbags, which is not installed: pip install rosbags"


@pytest.mark.parametrize(
    "command",
    [
        ("ask", "-q", "What?", "--image", "I"),
        ("episodes", "build", "B", "--out", "E"),
        ("evaluate", "bags", "B", "--questions", "Q"),
        ("evaluate", "watch"),
        ("export", "--out", "O"),
        ("embed", "I", "--out", "F.npz"),
        ("curate", "S", "--keep", "2", "--out", "O"),
        ("bench", "model"),
        ("bench", "engine"),
    ],
    ids=" ".join,
)
def test_a_missing_model_is_reported_before_the_imports_that_take_seconds(command, tmp_path):
    error = execute_without(HEAVY, *command, "--model", tmp_path / "none").error
    assert error == f"{tmp_path / 'none'} is not a checkpoint folder; give one, or owner/name on the model hub"


def test_bags_and_questions_are_read_before_the_imports_that_take_seconds():
    code = "import penguin_ros.evaluation.bags.run, sys; assert 'torch' not in sys.modules"
    assert execute(code=("-c", code)).code == 0


def test_a_folder_without_a_model_is_reported_before_the_imports_that_take_seconds(tmp_path):
    error = execute_without(HEAVY, "ask", "-q", "What?", "--image", "I", "--model", tmp_path).error
    assert (
        error == f"{tmp_path / 'config.json'} is missing; a checkpoint folder needs it, an exported one manifest.json"
    )


@pytest.mark.parametrize(
    ("package", "remedy", "command"),
    [
        ("typer", "typer", ("doctor",)),
        ("ruamel", "ruamel.yaml", ("evaluate", "bags", "B", "--questions", "Q", "--param", "a=1", "--model", MODEL)),
        ("ml_dtypes", "ml-dtypes", ("export", "--model", MODEL, "--out", "O")),
        ("jinja2", "jinja2", ("evaluate", "report", "R")),
    ],
)
def test_a_missing_package_is_named(package, remedy, command):
    error = execute_without((package,), *command).error
    assert error == f"this command needs the Python package {package}, which is not installed: pip install {remedy}"


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("penguin_tabletop", ("tabletop", "write", "--out", "T", "--scenes", "1")),
        ("penguin_training", ("train", "STAGE.yaml")),
    ],
)
def test_code_left_out_of_a_workspace_is_named(package, command):
    error = execute_without((package,), *command).error
    assert error.endswith(f"{package}, which is not installed: build the workspace with -DPENGUIN_VL_TRAINING=ON")

"""The demo, the soak and the benchmark of the node as a user runs them: whole graphs in processes of their own."""

import json

import pytest
from command_line import execute

pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from PIL import Image

from penguin_engine.export.manifest import MANIFEST
from penguin_ros.tools.demo_client import DemoFailedError, check_diagnostics


def test_the_demo_shows_right_answers_and_boxes_on_the_recording(domain, tmp_path):
    result = execute("demo", "--out", tmp_path / "pictures", "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    # Lost sensor data is not resent, so a busy machine may lose some of the 100 images.
    assert 80 <= report["frames_in"] <= 100 and report["keyframes"] >= 1
    assert 0 < report["tokens_held"] <= report["token_budget"] == 512
    assert report["captions"] >= 1 and len(report["caption_seconds"]) == report["captions"]
    assert [answer["by"] for answer in report["answers"]] == ["service", "action", "service"]
    for answer in report["answers"]:
        assert answer["right"] and answer["tokens"]["generated"] > 0 and answer["frames"] >= 1
    assert report["scores"]["object_f1"]["value"] > 0.9 and report["scores"]["object_f1"]["of"] >= 1
    assert report["scores"]["labelled_box_share"]["value"] > 0.8 and report["scores"]["accuracy"]["value"] == 1
    assert report["position_error_cm"]["median"] < 4 and report["position_error_cm"]["of"] >= 3
    assert report["pictures"]
    for path in report["pictures"]:
        with Image.open(path) as picture:
            assert picture.size == (168, 168)


def test_the_demo_names_a_missing_checkpoint(domain, tmp_path):
    result = execute("demo", "--model", tmp_path / "nowhere")
    assert result.code == 1 and "nowhere does not exist" in result.err and "--model" in result.err


def test_the_demo_fails_if_the_node_fails(domain, tmp_path):
    (tmp_path / MANIFEST).touch()  # the node refuses it before it imports PyTorch, which takes seconds
    result = execute("demo", "--model", tmp_path, "--out", tmp_path / "pictures")
    assert result.code == 1 and "error: the demo's node failed with exit code 1; see above" in result.err
    assert f"{tmp_path} is an exported folder" in result.err and not (tmp_path / "pictures").exists()


@pytest.mark.parametrize(("name", "key"), [("penguin", "errors"), ("penguin: /eye", "failed to convert")])
def test_the_demo_fails_if_diagnostics_report_errors(name, key):
    statuses = {
        source: DiagnosticStatus(name=source, message="half a JPEG", values=[KeyValue(key=counter, value="0")])
        for source, counter in (("penguin", "errors"), ("penguin: /eye", "failed to convert"))
    }
    check_diagnostics(statuses, "penguin", "/eye")
    statuses[name].values[0].value = "2"
    with pytest.raises(DemoFailedError, match=f"{name}: 2 {key}; its diagnostics say: half a JPEG"):
        check_diagnostics(statuses, "penguin", "/eye")


def test_the_soak_measures_a_node_that_stays_alive(domain):
    result = execute("bench", "soak", "--faults", "--minutes", "0.05", "--every", "3", "--json", ROS_DOMAIN_ID="101")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["faults"] >= 1
    assert report["node_exit_code"] == 0 and report["answers"] == sum(s["answers"] for s in report["samples"]) > 0
    assert all(s["resident_mib"] > 50 and s["threads"] > 2 and s["files"] > 2 for s in report["samples"])


def test_the_node_is_measured_with_a_camera_and_questions(domain, checkpoint, tmp_path):
    options = ("--model", checkpoint, "--minutes", "0.05", "--every", "1.5", "--size", "160x120", "--compressed")
    result = execute("bench", "node", *options, "--json", ROS_DOMAIN_ID="100")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    for name in ("first_token_s", "queue_s"):
        assert 0 <= report[name]["p50"] <= report[name]["p95"] <= report[name]["max"] < 60
    assert report["sampled_hz"] > 0 and report["rss_mib"] > 50 and 0 <= report["load"] <= 1
    assert len(report["answers"]) >= 1 and report["node_exit_code"] == 0
    (tmp_path / MANIFEST).touch()
    damaged = ("--model", tmp_path, "--runtime", "onnx")
    failed = execute("bench", "node", *damaged, "--minutes", "0.05", ROS_DOMAIN_ID="100")
    assert failed.code == 1 and "the node's process" in failed.err and str(tmp_path) in failed.err

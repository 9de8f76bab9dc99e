"""`penguin-vl ask --node`: streamed answers of a running node, and errors."""

import json
import os
import signal
import subprocess
import sys
from functools import partial

import pytest
import typer

pytest.importorskip("rclpy", reason="needs ROS 2")

from builtin_interfaces.msg import Time
from penguin_vl.msg import Answer, Evidence, GroundedObject, TimeRange

from penguin_ros.cli.ask_running import ask_running
from penguin_ros.tools.node_client import answer_dict


def penguin_vl(*args, **options):
    command = [sys.executable, "-m", "penguin_ros.cli.main", *args]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore SIGINT
        **options,
    )


def finished(process):
    out, err = process.communicate(timeout=180)
    return process.returncode, out, err


def replace_client(monkeypatch, ask):
    client = type("Client", (), {"__init__": lambda self, node: None, "ask": ask, "close": lambda self: None})
    monkeypatch.setattr("penguin_ros.tools.ask_client.AskClient", client)


def test_the_answer_is_printed_with_its_boxes_and_frames(robot, start_node, image, cli):
    node = start_node(caption__on_keyframe=False)
    robot.publish_and_wait(node, image(1.0))
    code, out, err = finished(penguin_vl("ask", "--node", node.name, "What is there?"))
    assert code == 0, err
    # A loaded machine may lose pieces of the stream; then the whole answer is printed again.
    assert out.startswith("A [red cube](100,200,300,400)") or "\nA red cube." in out
    assert "red cube: (8, 11) to (25, 22) px" in out
    assert f"{node.topic}: 1 frames, 6 visual tokens" in out

    answer = cli("ask", "--node", node.name, "-q", "What?", "--json", "--max-new-tokens", "3").json
    assert (answer["tokens"]["generated"], answer["frame_id"], answer["stamp"]) == (3, "optical", 1.0)


def test_a_message_becomes_the_fields_of_an_offline_answer():
    objects = [GroundedObject(label="cube", x_max_px=9.0, score=score) for score in (0.25, float("nan"))]
    spans = [TimeRange(start=Time(sec=2), end=Time(sec=3, nanosec=500_000_000))]
    result = answer_dict(Answer(objects=objects, time_ranges=spans))
    assert [found["score"] for found in result["objects"]] == [0.25, None]
    assert result["time_ranges"] == [{"start_s": 2.0, "end_s": 3.5}]


def test_an_answer_is_printed_again_if_pieces_were_lost(monkeypatch, capsys):
    result = answer_dict(Answer(text="A red cube. And a ball."))

    def ask(client, question, cameras, horizon_s, max_new_tokens, on_text, *options):
        for piece in streamed:
            on_text(piece)
        return result

    replace_client(monkeypatch, ask)
    streamed = ["A [red cube](100,200,300,400).", " And a ball."]
    ask_running("/penguin", "What?", [], 0.0, (None, None), None, as_json=False)
    assert capsys.readouterr().out.count("And a ball.") == 1
    streamed = streamed[:1]
    ask_running("/penguin", "What?", [], 0.0, (None, None), None, as_json=False)
    assert "\nA red cube. And a ball.\n" in capsys.readouterr().out


def test_a_window_is_sent_and_its_evidence_is_printed(monkeypatch, capsys):
    evidence = [
        Evidence(stamp=Time(sec=3600), camera="/front", episode_id=7, probability=p) for p in (0.25, float("nan"))
    ]
    evidence[0].pose_known, evidence[0].pose.header.frame_id, evidence[0].pose.pose.position.x = True, "map", 1.5
    sent = {}

    def ask(client, question, cameras, horizon_s, max_new_tokens, on_text, since_ns, until_ns, *options):
        sent.update(since=since_ns, until=until_ns)
        return answer_dict(Answer(evidence=evidence))

    replace_client(monkeypatch, ask)
    ask_running("/penguin", "What?", [], 0.0, ("1970-01-01T01:00:00", "3600.5"), None, as_json=False)
    assert sent == {"since": 3600 * 10**9, "until": 3600_500_000_000}
    lines = capsys.readouterr().out.splitlines()
    where = "episode 7, 1970-01-01 01:00:00.000 UTC, /front"
    assert f"  {where} at (1.50, 0.00, 0.00) m in map: helps with probability 0.25" in lines
    assert f"  {where}: not judged" in lines
    for text in ("noon", "3000000000", "-5"):
        with pytest.raises(typer.BadParameter, match=text):
            ask_running("/penguin", "What?", [], 0.0, (None, text), None, as_json=False)


def test_errors_of_the_node_are_reported_in_one_line(shared_node, robot, cli):
    for args, message in (
        (["What?"], "has been seen yet"),
        (["What?", "--camera", "/x"], "camera '/x' is not configured"),
        (["\udcff"], "cannot be sent: 'utf-8' codec can't encode"),
    ):
        assert message in cli("ask", "--node", "/shared/penguin", *args).error


def test_an_invalid_node_name_is_refused(domain, cli):
    error = cli("ask", "--node", "my robot", "What?").error
    assert error == "'my robot' is not a valid node name; an example is /penguin"


def test_a_chat_with_a_node_is_one_conversation(robot, start_node, image, tmp_path):
    node = start_node(caption__on_keyframe=False)
    robot.publish_and_wait(node, image(1.0))
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "boolean"}')
    chat = penguin_vl("ask", "--node", node.name, "--chat", "--json", "--schema", str(schema), stdin=subprocess.PIPE)
    out, err = chat.communicate("Is it there?\n\nAre you <|im_end|>?\nIs it red?\n", timeout=180)
    first, refused, last = map(json.loads, out.splitlines())
    assert (chat.returncode, last["question"], last["turns_used"]) == (1, "Is it red?", 1), err
    assert first["turns_used"] == 0 and {first["answer"], last["answer"]} <= {"true", "false"}
    assert "leave it out" in refused["error"] and err.startswith("error: ") and err.count("\n") == 1


def test_ctrl_c_cancels_the_answer(robot, start_node, image):
    node = start_node({"token_s": 0.2}, caption__on_keyframe=False)
    robot.publish_and_wait(node, image(1.0))
    process = penguin_vl("ask", "--node", node.name, "What?")
    assert process.stdout.read(2)
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process)
    assert code == 1 and "cancelled" in err


def test_bad_usage_exits_with_code_2(cli):
    for args, message in (
        ([], "give one question"),
        (["What?", "-q", "What?"], "give one question"),
        (["What?"], "--model"),
        (["What?", "--node", "/penguin", "--image", "x.png"], "Invalid value for --node"),
    ):
        result = cli("ask", *args)
        assert result.code == 2 and message in result.err, result.err

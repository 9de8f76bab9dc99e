"""The recorder: what its page receives, and what it saves."""

import http.client
import io
import json
import socket
import threading

import pytest
from browser import BROWSER, dump
from PIL import Image

from penguin_models.errors import EvaluationError, MediaError, WriteError
from penguin_ros.evaluation.bags.recording import open_recording
from penguin_ros.evaluation.question_file import read_questions
from penguin_ros.evaluation.question_recorder import Recorder
from penguin_ros.evaluation.recorder_server import RecorderServer
from penguin_ros.web_server import PortError

PICTURES = [(0.5 * i, 10 * i) for i in range(9)]
TEXT = [{"type": "text", "accept": ["red"]}]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "questions.jsonl"


@pytest.fixture
def recorder(picture_bag, file):
    bag = picture_bag({"/front": PICTURES, "/rear": PICTURES[:3]})
    return Recorder(open_recording(bag, ["/front", "/rear"]), file)


@pytest.fixture
def server(recorder):
    """A running server; a request must arrive within one second."""
    server = RecorderServer(recorder, read_s=1.0)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield server
    server.stop()
    thread.join()


@pytest.fixture
def ask(server):
    """Sends requests to a running server: (status, content type, body)."""

    def request(method, path, body=None, kind="application/json", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        headers |= {"Content-Type": kind} if body is not None else {}
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, reply.getheader("Content-Type"), content

    return request


def post(ask, **values):
    values = {"camera": "/front", "time_s": 1.0, "question": "What?", "expected": TEXT} | values
    status, _, body = ask("POST", "/question", json.dumps(values))
    return status, json.loads(body)


def grey(jpeg):
    return round(sum(Image.open(io.BytesIO(jpeg)).convert("RGB").resize((1, 1)).getpixel((0, 0))) / 3)


def test_the_page_receives_the_times_of_the_bag(ask, file):
    status, kind, page = ask("GET", "/")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert b"http://" not in page.replace(b"http://www.w3.org", b"")
    info = json.loads(ask("GET", "/info")[2])
    assert (info["bag"], info["file"], info["questions"]) == ("bag", str(file), [])
    assert info["times"] == {"/front": [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4], "/rear": [0, 0.5, 1]}


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [8, 7, 0], [5, 5, 6, 2, 3]])
def test_images_are_served_in_any_order(ask, order):
    for index in order:
        status, kind, jpeg = ask("GET", f"/frame?camera=%2Ffront&index={index}")
        assert (status, kind) == (200, "image/jpeg") and abs(grey(jpeg) - 10 * index) <= 2


@pytest.mark.parametrize(
    "query", ["camera=/front&index=9", "camera=/front&index=-1", "camera=/none&index=0", "index=x", ""]
)
def test_missing_images_are_not_found(ask, query):
    status, _, body = ask("GET", f"/frame?{query}")
    assert status == 404 and json.loads(body)["error"]


def test_a_damaged_image_is_a_clear_error(bags, tmp_path):
    import numpy as np

    jpeg = bags.jpeg(np.zeros((20, 20, 3), np.uint8), 0.5, 10**18)
    recorder = Recorder(open_recording(bags.write({"/front": [(0, jpeg)]}), [None]), tmp_path / "q.jsonl")
    with pytest.raises(MediaError, match="cannot be decoded"):
        recorder.frame("/front", 0)


def test_questions_are_saved_immediately(ask, file):
    assert post(ask)[0] == 200
    assert post(ask, question="When?", expected=[{"type": "time_range", "accept": [[0.5, 1]]}], kind="event")[0] == 200
    first, second = read_questions(file)
    assert (first.id, first.bag, first.time_s, first.cameras) == ("bag-1", "bag", 1.0, ("/front",))
    assert (second.id, second.group) == ("bag-2", "event")
    assert [q["id"] for q in json.loads(ask("GET", "/info")[2])["questions"]] == ["bag-1", "bag-2"]


def test_questions_are_added_to_an_existing_file(recorder, file):
    recorder.add({"camera": "/front", "time_s": 1, "question": "What?", "expected": TEXT})
    again = Recorder(recorder.recording, file)
    again.add({"camera": "/front", "time_s": 2, "question": "And now?", "expected": TEXT})
    assert [question.id for question in read_questions(file)] == ["bag-1", "bag-2"]


@BROWSER
def test_the_page_lists_the_questions_of_the_file(server, recorder, tmp_path):
    """It also shows the first image."""
    recorder.add({"camera": "/front", "time_s": 1, "question": "What <now>?", "expected": TEXT})
    page = dump(server.address, tmp_path / "profile")
    assert "1.00 s: What &lt;now&gt;? (bag-1) <button" in page
    assert "0.00 s of 4.00 s" in page and 'src="' in page and "index=0" in page


def test_a_question_can_be_removed(ask, file):
    other = json.dumps({"id": "z", "bag": "other", "time_s": 0, "question": "?", "expected": TEXT}, indent=None)
    for question in ("What?", "A typo", "When?"):
        assert post(ask, question=question)[0] == 200
    with file.open("a") as stream:
        stream.write(f"\n{other}\n")
    assert ask("POST", "/remove", json.dumps({"id": "bag-2"}))[0] == 200
    assert [question.id for question in read_questions(file)] == ["bag-1", "bag-3", "z"]
    assert file.read_text().splitlines()[-1] == other  # unchanged
    for name in ("bag-2", "z", None):
        status, _, body = ask("POST", "/remove", json.dumps({"id": name}))
        assert status == 400 and "there is no question" in json.loads(body)["error"]
    assert post(ask)[1]["id"] == "bag-2"


def test_removing_keeps_questions_with_line_separators(recorder, file):
    for text in ("one\N{LINE SEPARATOR}two?", "What?"):
        recorder.add({"camera": "/front", "time_s": 1, "question": text, "expected": TEXT})
    recorder.remove("bag-2")
    assert [question.question for question in read_questions(file)] == ["one\N{LINE SEPARATOR}two?"]


def test_a_file_without_a_final_newline_can_be_continued(recorder, file):
    recorder.add({"camera": "/front", "time_s": 1, "question": "What?", "expected": TEXT})
    file.write_text(file.read_text().strip())
    Recorder(recorder.recording, file).add({"camera": "/front", "time_s": 2, "question": "And?", "expected": TEXT})
    assert [question.id for question in read_questions(file)] == ["bag-1", "bag-2"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"question": " "}, "the question is empty"),
        ({"expected": []}, "expected: "),
        ({"time_s": 9.0}, "is asked at 9.00 s, but bag bag has images of /front from 0 to 4.00 s"),
        ({"camera": "/rear", "time_s": 3.0}, "images of /rear from 0 to 1.00 s"),
        ({"camera": "/none"}, "bag bag has no images of /none"),
        ({"expected": [{"type": "number", "value": None}]}, "value"),
    ],
)
def test_invalid_questions_are_refused(ask, file, values, message):
    status, reply = post(ask, **values)
    assert status == 400 and message in reply["error"]
    assert file.read_text() == ""


def test_a_used_id_is_refused(ask):
    assert post(ask, id="mine")[0] == 200
    status, reply = post(ask, id="mine")
    assert status == 400 and reply["error"] == "the id mine is already used; choose another"


@pytest.mark.parametrize(
    ("path", "body", "kind", "status"),
    [
        ("/question", "{", "application/json", 400),
        ("/question", "[]", "application/json", 400),
        ("/question", "[" * 200_000, "application/json", 400),
        ("/question", '"\\ud800"', "application/json", 400),
        ("/question", "{}", "text/plain", 415),  # a form on another site could send this
        ("/question", "x" * 1_000_001, "application/json", 413),
        ("/elsewhere", "{}", "application/json", 404),
    ],
)
def test_other_requests_are_refused(ask, file, path, body, kind, status):
    assert ask("POST", path, body, kind)[0] == status
    assert ask("GET", "/nothing")[0] == 404
    assert file.read_text() == ""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "attacker.example"}, 400),  # DNS rebinding: the attacker's name resolves to this machine
        ({"Host": "attacker.example:8765"}, 400),
        ({"Origin": "https://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:8765"}, 200),
    ],
)
def test_requests_of_other_sites_are_refused(ask, file, headers, status):
    body = json.dumps({"camera": "/front", "time_s": 1.0, "question": "What?", "expected": TEXT})
    assert ask("POST", "/question", body, **headers)[0] == status
    assert len(read_questions(file) if file.read_text() else []) == (status == 200)
    assert ask("GET", "/info", **headers)[0] == status


@pytest.mark.parametrize("length", ["-1", "x", "99999999999999999999999"])
def test_an_invalid_length_is_refused(server, file, length):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        head = "POST /question HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {length}\r\n\r\n{{".encode())
        assert client.recv(100).split()[1] in (b"400", b"413")


def test_connections_that_send_no_whole_request_are_closed(server, ask):
    """The server answers in the meantime."""
    head = b"POST /question HTTP/1.1\r\nHost: localhost\r\n"
    parts = [b"", head, head + b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{"]
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(60)]
    for number, client in enumerate(clients):
        client.sendall(parts[number % len(parts)])
    assert ask("GET", "/info")[0] == 200
    for client in clients:
        assert client.recv(10_000) == b""
        client.close()


def test_a_file_that_cannot_be_used_is_a_clear_error(recorder, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text("nonsense\n")
    with pytest.raises(EvaluationError, match=r"bad.jsonl: line 1: Invalid JSON"):
        Recorder(recorder.recording, bad)
    with pytest.raises(WriteError, match="cannot be written"):
        Recorder(recorder.recording, bad / "q.jsonl")


def test_a_used_port_is_a_clear_error(recorder, server):
    with pytest.raises(PortError, match="choose another with --port"):
        RecorderServer(recorder, server.port)

"""The server with the official client, over HTTP, with the small checkpoint and with scripted answers."""

import json
import socket
import threading
import typing
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager

import openai
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai_requests import KEY, chat, client_of, data_uri, image_part, schema_of
from openai_servers import running

from penguin_engine.runtimes.torch import TorchRuntime
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.offline import ask
from penguin_engine.server.answering import ModelAnswerer, Reply
from penguin_engine.server.chat_request import BadRequestError, parse_chat
from penguin_engine.server.limits import LOOPBACK, Limits


@contextmanager
def serving(answerer, limits=None, **options):
    """Runs a server in a thread; yields its URL."""
    with running(answerer, limits, **options) as server:
        yield server.address


class Scripted:
    """Answers with the number of the question, once it is let go."""

    def __init__(self):
        self.go, self.cancelled, self.closed = threading.Event(), threading.Event(), False
        self.asked = []

    def answer(self, conversation, sampling, hooks, log=None):
        self.asked.append((conversation, sampling))
        hooks.on_text("one ", 1)
        while not self.go.wait(0.01):
            if hooks.cancelled():
                self.cancelled.set()
                return Reply("one ", "cancelled", 1, 0, 1, 0.0, [], [])
        hooks.on_text("two", 2)
        return Reply("one two", "end", 5, 3, 2, 0.1, [{"label": "cup", "box_px": [1, 2, 3, 4], "score": None}], [])

    def close(self):
        self.closed = True


@pytest.fixture
def scripted():
    return Scripted()


def test_the_official_client_gets_the_answers_of_the_model(model, processor, picture):
    rgb, few = picture(56, 84), {"max_tokens": 6}
    uri, content = data_uri(rgb)
    text = {"type": "text", "text": "What is on the table?"}
    expected = ask(TorchRuntime(model), processor, text["text"], [rgb], sampling=Sampling(max_new_tokens=6))
    with serving(ModelAnswerer(TorchRuntime(model), processor, 10**6)) as address:
        client = client_of(address)
        [listed] = client.models.list().data
        assert listed.id == "tiny" == client.models.retrieve("tiny").id
        shown = [image_part(uri), text]
        whole = chat(client, shown, **few)
        assert whole.choices[0].message.content == expected.raw and whole.choices[0].finish_reason == "length"
        usage = whole.usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (expected.prompt_tokens, expected.generated_tokens)
        assert usage.prompt_tokens_details.image_tokens == expected.visual_tokens

        assert chat(client, shown, max_tokens=6, max_completion_tokens=2).usage.completion_tokens == 2
        *pieces, last, counted = chat(client, shown, stream=True, stream_options={"include_usage": True}, **few)
        assert "".join(piece.choices[0].delta.content for piece in pieces) == expected.raw
        assert last.choices[0].finish_reason == "length" and counted.usage == usage

        upload = client.files.create(file=("a.png", content), purpose="vision")
        sent = [{"type": "file", "file": {"file_id": upload.id}}, text]
        assert chat(client, sent, **few).choices[0].message.content == expected.raw
        assert [file.id for file in client.files.list()] == [upload.id] and client.files.delete(upload.id).deleted
        with pytest.raises(openai.NotFoundError, match="upload it again"):
            chat(client, sent)
        with pytest.raises(openai.BadRequestError, match="purpose must be vision or user_data"):
            client.files.create(file=("a.png", content), purpose="fine-tune")

        turns = [
            {"role": "developer", "content": "Be brief."}, {"role": "user", "content": shown},
            {"role": "assistant", "content": "A cup."}, {"role": "user", "content": "And now?"},
        ]  # fmt: skip
        sent_back = [turns[1], whole.choices[0].message.model_dump() | {"tool_calls": []}, turns[3]]
        assert chat(client, messages=sent_back, **few).usage.prompt_tokens > usage.prompt_tokens
        later = chat(client, messages=turns, seed=7, temperature=1.0, stop="x", **few)
        assert later.usage.prompt_tokens > usage.prompt_tokens
        schema = {
            "type": "object",
            "properties": {"n": {"enum": [1, 23]}},
            "required": ["n"],
            "additionalProperties": False,
        }
        said = chat(client, shown, response_format=schema_of(schema)).choices[0]
        assert json.loads(said.message.content)["n"] in (1, 23) and said.finish_reason == "stop"
        assert later.choices == chat(client, messages=turns, seed=7, temperature=1.0, stop="x", **few).choices


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ({"model": "x"}, 404, "there is no model x, only tiny"),
        ({"n": 2}, 400, "n is 2, which is not supported"),
        ({"temperature": 3}, 400, "temperature: .*less than or equal to 2"),
        ({"max_tokens": 0}, 400, "max_tokens: .*greater than or equal to 1"),
        ({"extra_body": {"top_q": 1}}, 400, "there is no parameter top_q"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools is .* not supported"),
        ({"messages": [{"role": "user", "content": "A", "weight": 1}]}, 400, "there is no field weight; leave it out"),
        ({"messages": [{"role": "user", "content": "A", "tool_calls": [1]}]}, 400, r"0\].tool_calls: .*at most 0"),
        ({"messages": []}, 400, "messages: .*at least 1 item"),
        ({"messages": [{"role": "assistant", "content": "A"}]}, 400, "must be the user's"),
        ({"content": " "}, 400, "the last message is empty"),
        ({"content": [{"type": "input_audio"}]}, 400, r"messages\[0\].content\[0\]: .*does not match"),
        ({"content": [image_part("http://a/b.png")]}, 400, "addresses are not fetched"),
        ({"content": [image_part("file:///etc/passwd")]}, 400, "not fetched"),
        ({"content": [image_part("data:image/png;base64,?")]}, 400, "not valid base64"),
        ({"response_format": {"type": "json_schema"}}, 400, "has no json_schema"),
        ({"response_format": schema_of({"type": "x"})}, 400, "cannot be followed"),
        ({"content": [{"type": "file", "file": {}}]}, 400, "give either file_id or file_data"),
        ({"content": [{"type": "file", "file": {"file_id": "a", "file_data": "b"}}]}, 400, "either file_id or"),
        ({"content": [{"type": "file", "file": {"file_id": "../x"}}]}, 404, r"there is no file \.\./x"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_with_the_reason(refusing, options, status, message):
    with pytest.raises(openai.APIStatusError, match=message) as caught:
        chat(refusing, **options)
    assert caught.value.status_code == status and caught.value.body["type"] == "invalid_request_error"


def test_parameters_without_a_value_are_accepted():
    """Some clients send all of those that they know."""
    known = typing.get_type_hints(CompletionCreateParamsBase)
    assert len(known) > 30
    values = dict.fromkeys(known) | {"model": "tiny", "messages": [{"role": "user", "content": "A"}]}
    assert parse_chat(json.dumps(values).encode()).sampling(5).seed == 5


@pytest.fixture(scope="module")
def refusing():
    with serving(Scripted()) as address:
        yield client_of(address)


def test_a_damaged_image_and_a_long_answer_are_refused_by_the_model(model, processor, picture):
    damaged, large = image_part("data:image/png;base64,AAAA"), image_part(data_uri(picture(60, 60))[0])
    with serving(ModelAnswerer(TorchRuntime(model), processor, 5000)) as address:
        for options, message in (
            ({"content": [damaged]}, r"messages\[0\].content\[0\].image_url.url is not an image"),
            ({"content": [large, large]}, "more than 5000 pixels together"),
            ({"max_tokens": 10**9}, "more than the .* that fit"),
            ({"content": "<image>"}, "has a meaning of its own"),
        ):
            with pytest.raises(openai.BadRequestError, match=message):
                chat(client_of(address), **options)


def test_nothing_is_lost_when_more_ask_than_wait(scripted):
    results = []

    def ask_once(client):
        try:
            results.append(chat(client).choices[0].message.content)
        except openai.RateLimitError as err:
            results.append(err.response.headers["retry-after"])

    with serving(scripted, Limits(queue_size=2)) as address:
        client = client_of(address)
        threads = [threading.Thread(target=ask_once, args=(client,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        while results.count("1") < 17:
            assert threads[0].join(0.01) is None
        scripted.go.set()
        for thread in threads:
            thread.join(30)
        metrics = urllib.request.urlopen(f"{address}/metrics").read().decode()
    assert sorted(results) == ["1"] * 17 + ["one two"] * 3 and len(scripted.asked) == 3 and scripted.closed
    for status, count in ((200, 3), (429, 17)):
        assert f'penguin_requests_total{{status="{status}"}} {count}.0' in metrics
    assert 'penguin_tokens_total{kind="generated"} 6.0' in metrics


def test_a_client_that_leaves_ends_its_answer(scripted):
    with serving(scripted) as address:
        client = client_of(address)
        stream = chat(client, stream=True)
        next(iter(stream))
        stream.close()
        assert scripted.cancelled.wait(10)
        scripted.go.set()
        assert chat(client).choices[0].message.content == "one two"


@pytest.mark.parametrize("stream", [False, True])
def test_a_late_answer_is_an_error(scripted, stream):
    with serving(scripted, Limits(time_limit_s=0.1)) as address, pytest.raises(openai.APIError, match="not complete"):
        list(chat(client_of(address), stream=stream))


def test_keys_hosts_sizes_and_types_are_checked_before_a_body_is_read(scripted):
    def status(path="/v1/chat/completions", body=b"{}", **headers):
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        try:
            return urllib.request.urlopen(urllib.request.Request(address + path, body, headers)).status
        except urllib.error.HTTPError as err:
            assert json.load(err)["error"]["message"]
            return err.code

    with serving(scripted, Limits(max_body_bytes=100), api_key=KEY, hosts=LOOPBACK) as address:
        assert status(Authorization="Bearer x") == status(Authorization="") == 401
        assert status("/health", None, Authorization="") == 200
        assert status(Host="evil.example") == 421 and status(Host="localhost:1") == 400
        assert status(body=bytes(101)) == 413 and status(body=iter([bytes(60)] * 2), Transfer_Encoding="chunked") == 413
        for origin in ("http://evil.example", "null", "https://localhost"):  # of pages in a browser, forms included
            assert status(Origin=origin) == status("/v1/files", Origin=origin) == 403
        assert status(Content_Type="text/plain") == 400 and status("/v1/other") == status("/v1/models", b"") - 1 == 404
    assert not scripted.asked


def test_a_body_that_does_not_come_leaves_its_place_in_the_queue(scripted, monkeypatch):
    monkeypatch.setattr("penguin_engine.server.limits._BODY_PAUSE_S", 0.2)
    with serving(scripted, Limits(queue_size=0)) as address:
        where = urllib.parse.urlsplit(address)
        with socket.create_connection((where.hostname, where.port)) as silent:
            silent.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n")
            silent.sendall(b"Content-Type: application/json\r\n\r\n{")
            silent.settimeout(20)
            assert silent.recv(4096).startswith(b"HTTP/1.1 408")
        scripted.go.set()
        assert chat(client_of(address)).choices[0].message.content


def test_uploads_leave_when_there_is_no_room(tmp_path):
    from penguin_engine.server.uploads import Uploads

    uploads = Uploads(tmp_path, 100, 3600)
    first, second = (uploads.add("a.png", "image/png", bytes(40)) for _ in range(2))
    third = uploads.add("b.mp4", "video/mp4", bytes(60))
    assert uploads.all() == [second, third] and third.is_video and not first.path.exists()
    assert not uploads.link(second.id, tmp_path / "in use")
    uploads.delete(second.id)
    assert uploads.all() == [third] and (tmp_path / "in use").stat().st_size == 40
    for name, kind, size in (("a.txt", "text/plain", 1), ("a.png", "image/png", 101), ("a.png", "image/png", 0)):
        with pytest.raises(BadRequestError):
            uploads.add(name, kind, bytes(size))

"""What a message quotes is short and printable, whatever was sent."""

import pytest

from penguin_models.quoting import QUOTED_CHARS, quoted, shortened


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", "'a b'"),
        ("\n\0\ud800\u202e", r"'\n\x00\ud800\u202e'"),
        (3.5, "3.5"),
        pytest.param(10**5000, "a value of type int", id="more digits than Python writes"),
        (["a", "b"], "['a', 'b']"),
    ],
)
def test_short_values_are_quoted_as_python_writes_them(value, text):
    assert quoted(value) == text


@pytest.mark.parametrize(
    "value",
    ["x" * 10**7, ["x" * 10**6] * 1000, list(range(10**6)), {"a" * 1000: "b" * 1000}, b"x" * 10**6, "\0" * 300],
    ids=["text", "texts", "numbers", "mapping", "bytes", "unprintable"],
)
def test_long_values_are_cut(value):
    assert 2 < len(quoted(value)) <= QUOTED_CHARS


def test_a_shortened_text_is_one_printable_line():
    assert shortened("token_budget") == "token_budget"
    assert shortened("a\nb\ud800") == r"a\nb\ud800"
    assert shortened("x" * 1000) == "x" * (QUOTED_CHARS - 3) + "..."
    assert len(shortened("\n" * 1000)) <= QUOTED_CHARS

"""Boxes and time ranges: our format reads back, other formats are understood, malformed ones are counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_models.errors import PromptError
from penguin_models.grounding import Box, GroundedObject, TimeRange, format_grounding, format_object, parse
from penguin_models.types import Size

CUBE = GroundedObject("red cube", Box(120, 340, 220, 480))
MUG = GroundedObject("mug", Box(0, 0, 1000, 1000))

coordinates = st.integers(0, 1000)
boxes = st.builds(
    lambda a, b, c, d: Box(min(a, c), min(b, d), max(a, c), max(b, d)),
    coordinates,
    coordinates,
    coordinates,
    coordinates,
)
characters = st.characters(exclude_characters="[]", exclude_categories=["Cs", "Cc"])
labels = st.text(characters, min_size=1).map(lambda text: " ".join(text.split())).filter(bool)
objects = st.builds(GroundedObject, labels, boxes)
hundredths = st.integers(0, 10**6).map(lambda n: n / 100)
spans = st.builds(lambda a, b: TimeRange(min(a, b), max(a, b)), hundredths, hundredths)


@given(st.lists(objects, max_size=6), st.lists(spans, max_size=3))
def test_formatted_text_parses_back(items, ranges):
    result = parse(format_grounding(items, ranges))
    assert result.objects == tuple(items)
    assert result.time_ranges == tuple(ranges)
    assert result.malformed == 0


pieces = st.sampled_from(
    [
        *"[](){},7%.",
        "\\u00000\\u0000",
        '{"bbox":',
        "```json",
        '{"bbox_2d":',
        '"label":',
        "<box>",
        "</box>",
        "9" * 400,
        "-1",
        "1e999",
        " cup ",
    ]
)


@given(st.text() | st.lists(pieces, max_size=25).map("".join))
def test_no_text_breaks_the_parser(text):
    assert parse(text).malformed >= 0


def test_phrases_stay_in_the_text():
    result = parse(f"There is a {format_object(CUBE)} next to the {format_object(MUG)}.")
    assert result.text == "There is a red cube next to the mug."
    assert result.objects == (CUBE, MUG)


@pytest.mark.parametrize(
    ("text", "expected", "clean"),
    [
        ("the red cube [120, 340, 220, 480]", (CUBE,), "the red cube"),
        ("A mug [0,0,1000,1000] and a red cube [120,340,220,480].", (MUG, CUBE), "A mug and a red cube."),
        ('```json\n[{"bbox_2d": [120, 340, 220, 480], "label": "red cube"}]\n```', (CUBE,), "red cube"),
        ('{"bbox_2d": [0, 0, 1000, 1000], "label": "mug"}', (MUG,), "mug"),
        ('[{"bbox_2d": [0, 0, 1000, 1000,], "label": "mug",},]', (MUG,), "mug"),
        ('{"a": 1} then {"objects": [{"bbox_2d": [0, 0, 1000, 1000], "label": "mug"}]}', (MUG,), '{"a": 1} then mug'),
        (
            '[{"bbox_2d": [0,0,1000,1000], "label": "mug"}] and [{"bbox_2d": [120,340,220,480], "label": "red cube"}]',
            (MUG, CUBE),
            "mug and red cube",
        ),
        ("<ref>red cube</ref><box>(120,340),(220,480)</box>", (CUBE,), "red cube"),
        ("<ref>mug</ref><box>[[0, 0, 1000, 1000]]</box> here", (MUG,), "mug here"),
        ("<box>120 340 220 480</box>", (GroundedObject("object", CUBE.box),), ""),
        ("see <box>120 340 220 480</box> there", (GroundedObject("object", CUBE.box),), "see there"),
        ('{"bbox": [0, 0, 1000, 1000], "name": "mug"}', (MUG,), "mug"),
        ('[{"box_2d": [120, 340, 220, 480], "category": "red cube"}]', (CUBE,), "red cube"),  # x first, unlike Gemini
        ('{"box": [120, 340, 220, 480], "text_content": "red cube"}', (CUBE,), "red cube"),
        (
            '{"bbox_2d": [[120, 340, 220, 480], [0, 0, 1, 1]], "label": "red cube"}',
            (CUBE, GroundedObject("red cube", Box(0, 0, 1, 1))),
            "red cube, red cube",
        ),
        ('{"bbox_2d": [0, 0, 1, 1], "label": 7}', (GroundedObject("7", Box(0, 0, 1, 1)),), "7"),
        ('{"mug": {"bbox": [0, 0, 1000, 1000]}}', (MUG,), "mug"),
        ('{"items": [{"bbox": [0, 0, 1000, 1000], "label": "mug"}], "count": 1}', (MUG,), 'mug {"count": 1}'),
        (
            '{"bbox": [0, 0, 1000, 1000], "label": "mug", "say": "é [red cube](120,340,220,480)"}',
            (MUG, CUBE),
            'mug {"say": "é red cube"}',
        ),
        ("[mug](0,0,1000,1000) and a red cube [120, 340, 220, 480]", (MUG, CUBE), "mug and a red cube"),
        ('{"rgb": [1, 2, 3, 4]} the red cube [120, 340, 220, 480]', (CUBE,), '{"rgb": [1, 2, 3, 4]} the red cube'),
    ],
)
def test_formats_of_other_models_are_understood(text, expected, clean):
    result = parse(text)
    assert (result.objects, result.text, result.malformed) == (expected, clean, 0)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ("0.12,0.34,0.22,0.48", (120, 340, 220, 480)),
        (".12, .34, .2204, 0.48", (120, 340, 220, 480)),
        ("0.0,0.0,1.0,1.0", (0, 0, 1000, 1000)),
        ("0,0.5,1,1", (0, 500, 1000, 1000)),
        ("0,0,1,1", (0, 0, 1, 1)),
        ("120.0,340.4,220,480", (120, 340, 220, 480)),
        ("12%, 34%, 22.0%, 48 %", (120, 340, 220, 480)),
        ("0.12,0.34,1.02,0.48", None),
        ("-0.01,0.34,0.22,0.48", None),
        ("0.22,0.34,0.12,0.48", None),
        ("10%,20%,30%,101%", None),
        ("-1,20,30,40", None),
    ],
)
@pytest.mark.parametrize(
    "syntax", ["[cup]({})", "cup [{}]", "<ref>cup</ref><box>{}</box>", '{{"bbox_2d": [{}], "label": "cup"}}']
)
def test_fractions_and_percentages_are_parts_of_the_image(syntax, numbers, expected):
    if "{{" in syntax:  # JSON has no % and no leading dot
        numbers = ",".join(f'"{number}"' for number in numbers.split(","))
    result = parse(syntax.format(numbers))
    assert [item.box for item in result.objects] == ([Box(*expected)] if expected else [])
    assert result.malformed == (expected is None)


def test_fractions_in_json_keep_their_points():
    (whole,) = parse('{"bbox_2d": [0.0, 0, 1.0, 1], "label": "cup"}').objects
    (dot,) = parse('{"bbox_2d": [0, 0, 1, 1], "label": "cup"}').objects
    assert (whole.box, dot.box) == (Box(0, 0, 1000, 1000), Box(0, 0, 1, 1))


@pytest.mark.parametrize(
    "text",
    [
        "[cube](1,2,3)",
        "[cube](1,2,3,4",
        "[cube](9,9,1,1)",
        "[cube](0,0,1001,5)",
        "[](1,2,3,4)",
        "a cube [1,2,3]",
        "a cube [9, 9, 1, 1]",
        "<ref>cube</ref><box>1,2</box>",
        '[{"bbox_2d": [1, 2, 3], "label": "cube"}]',
        '{"bbox_2d": null, "label": "cube"}',
        '{"bbox_2d": [1, 2, 3',
        '[{"bbox_2d": [1, 2, 3, 4], "lab',
        '[{"bbox_2d": [1e999, 2, 3, 4]}]',
        f"[cube](1,2,3,{'9' * 400})",
        "During the period 9.00 - 1.00 seconds.",
        "During the period now - then seconds.",
    ],
)
def test_malformed_boxes_are_counted(text):
    result = parse(text)
    assert (result.objects, result.time_ranges, result.malformed) == ((), (), 1)


@pytest.mark.parametrize("rest", ['{"bbox_2d": [5, 6, 7, 8], "lab', '{"bbox_2d": [5,', '{"la', '{"bbox_2d": [5, 6,}'])
def test_a_json_list_that_breaks_off_keeps_its_complete_items(rest):
    """An answer can end in the middle of an object when it runs out of tokens."""
    result = parse(f'[{{"bbox_2d": [120, 340, 220, 480], "label": "red cube"}}, {rest}')
    assert (result.objects, result.text, result.malformed) == ((CUBE,), "red cube", 1)


def test_the_phrase_before_a_bare_box_has_a_limited_length():
    (found,) = parse(f"{'word ' * 200}the red cube [120, 340, 220, 480]").objects
    assert found.box == CUBE.box
    assert set(found.label.split()) == {"word", "the", "red", "cube"} and len(found.label) <= 121


@pytest.mark.parametrize(
    "text",
    [
        "See [1] and [2, 3] and [the manual](https://example.org), or f(1,2,3,4).",
        "list[int] costs (1,2,3,4) in [2020].",
        'Settings {"speed": 3} and [{"x": [1]}].',
        '{"rgb": [10, 20, 30, 40], "n": 2}',
        '{\n  "range": [\n    10,\n    20,\n    30,\n    40\n  ]\n}',
        '```json\n[{"rgb": [10, 20, 30, 40]}]\n```',
        "```\n[10, 20, 30, 40]\n```",
        "[10, 20, 30, 40]",
        "[[10, 20, 30, 40], [1, 2, 3, 4]]",
        '{"a": [{"b": {"size": [1, 2, 3, 4]}}]}',
        '{"bbox": "none", "box": [1, 2, 3], "bounding_box": {"x": 1}, "n": [1, 2, 3, 4]}',
        '{"rgb": [10, 20, 30, 40], "n"',
        "{'rgb': [10, 20, 30, 40]}",
        "x = [10, 20, 30, 40] # `[1, 2, 3, 4]`",
        "The <box> element, and <box>text</box>.",
    ],
)
def test_brackets_without_boxes_are_left_alone(text):
    result = parse(text)
    assert (result.text, result.objects, result.malformed) == (text, (), 0)


@pytest.mark.parametrize("text", ["a cube [9, 9, 1, 1] here", "The colour is [10, 20, 30] here.", "a cup [1, 2, 3"])
def test_lists_that_are_perhaps_no_boxes_are_counted_and_stay(text):
    result = parse(text)
    assert (result.text, result.objects, result.malformed) == (text, (), 1)


def test_boxes_convert_to_pixels_and_back():
    size = Size(480, 640)
    assert CUBE.box.to_pixels(size) == pytest.approx((76.8, 163.2, 140.8, 230.4))
    assert Box.from_pixels(76.8, 163.2, 140.8, 230.4, size) == CUBE.box
    assert Box.from_pixels(-5, -5, 700, 500, size) == Box(0, 0, 1000, 1000)


@pytest.mark.parametrize("label", ["", " cup", "cup ", "a  b", "a\nb", "[cup]", "cup]"])
def test_labels_that_would_not_parse_back_are_refused(label):
    with pytest.raises(PromptError, match="label"):
        GroundedObject(label, MUG.box)


@pytest.mark.parametrize("numbers", [(5, 0, 4, 9), (0, 5, 9, 4), (-1, 0, 5, 5), (0, 0, 1001, 5)])
def test_boxes_must_be_ordered_and_in_range(numbers):
    with pytest.raises(PromptError, match=r"within \[0, 1000\]"):
        Box(*numbers)


@pytest.mark.parametrize("span", [(2.0, 1.0), (-1.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_time_ranges_must_be_ordered(span):
    with pytest.raises(PromptError, match="time range"):
        TimeRange(*span)

"""Captions against boxes: which counts and names contradict them, in which forms of English."""

import pytest

pytest.importorskip("inflect", reason="recaptioning is an extra: pip install '.[recaption]'")

from penguin_models.grounding import Box, GroundedObject
from penguin_training.recaptioning.consistency import contradictions, distinct


def boxes(text):
    """Returns objects by "2 red cube, 1 cup"."""
    labels = [(int(part.split()[0]), part.split(maxsplit=1)[1]) for part in text.split(", ") if part]
    every = [label for count, label in labels for _ in range(count)]
    return [GroundedObject(label, Box(7 * place, 10, 7 * place + 6, 200)) for place, label in enumerate(every)]


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("A red cube and a blue cube.", "1 red cube, 1 blue cube"),
        ("Two small cubes stand next to one cup.", "1 red cube, 1 blue cube, 1 cup"),
        ("One red cube, one blue cube.", "1 red cube, 1 blue cube"),
        ("Three cups.", ""),
        ("Boxes and glasses.", "1 box, 1 glass"),
        # A number counts the nearest noun, and nothing beyond the end of its phrase.
        ("three cups and two mugs", "3 cup, 2 mug"),
        ("Two people hold three cups.", "2 person, 3 cup"),
        ("Two people hold three cups.", "3 cup"),
        ("Three of the cups are red.", "4 cup"),
        ("One of the cups, next to two mugs, is red.", "4 cup, 2 mug"),
        ("A 500 ml bottle and two 3 cm cubes, 2 m from a chair.", "1 bottle, 2 cube, 1 chair"),
        ("Two cup holders and a cup.", "1 cup"),
        ("One glass bottle and two glasses.", "1 bottle, 2 glass"),
        ("A three-legged stool.", "1 stool"),
        # A number of some kind is not the number of all.
        ("There is no red cube and two blue cubes.", "2 cube"),
        ("There are no red cubes, only two blue cubes.", "2 blue cube"),
        ("Two cubes and no other cubes.", "2 cube"),
        ("one cube and another cube", "2 cube"),
        ("One red cube and a blue cube.", "2 cube"),
        ("One red and two blue cubes.", "3 cube"),
        ("Three red, two blue, and one green cube.", "6 cube"),
        ("One red cube lies in front; the blue cubes are behind it.", "3 cube"),
        ("Two cubes are on the left and three cubes on the right.", "5 cube"),
        ("One red cube and the other two cubes.", "3 cube"),
        ("Two cubes and a red cube.", "3 cube"),
        ("Three cubes: one red cube and two blue cubes.", "3 cube"),
        ("Two cubes. The two cubes are red.", "2 cube"),
        # Vague numbers agree with more.
        ("At least two cubes.", "3 cube"),
        ("Two or three cubes.", "2 cube"),
        ("Two to three cubes.", "3 cube"),
        ("More than two cubes, about 4 cups.", "3 cube, 5 cup"),
        # Irregular plurals name their noun.
        ("Two knives, two people and two leaves.", "2 knife, 2 person, 2 leaf"),
        ("Three vases, two horses, two buses, two mice.", "3 vase, 2 horse, 2 bus, 2 mouse"),
        ("Two cacti, two children, three sheep and a pair of scissors.", "2 cactus, 2 child, 3 sheep, 1 scissors"),
        ("Two men, two women, two shelves, two dishes.", "2 man, 2 woman, 2 shelf, 2 dish"),
        ("A shoe's box and a wine-glass.", "1 shoes, 1 glass"),
        ("Twenty-one cubes, one hundred and two cups, 13 mugs.", "21 cube, 102 cup, 13 mug"),
    ],
)
def test_what_agrees(caption, objects):
    assert contradictions(caption, boxes(objects)) == []


@pytest.mark.parametrize(
    ("caption", "objects", "found"),
    [
        ("There are 3 cubes.", "2 cube", ["counts 3 of the kind cube, there are 2 boxes"]),
        ("No cup, two cubes.", "2 cube, 1 cup", ["counts 0 of the kind cup, there are 1 boxes"]),
        ("There is no red cube.", "1 red cube, 1 blue cube", ["counts 0 of the kind cube"]),
        ("A table.", "1 cube, 1 cup", ["does not name the cube", "does not name the cup"]),
        ("three cups and two mugs", "2 cup, 3 mug", ["counts 3 of the kind cup", "counts 2 of the kind mug"]),
        ("one cube and another cube", "3 cube", ["counts 1 of the kind cube"]),
        ("One red cube.", "2 cube", ["counts 1 of the kind cube"]),
        ("Three cups. One cup is red.", "1 cup", ["counts 3 and 1 of the kind cup"]),
        ("Three cubes. A red cube is left of a blue cube.", "4 cube", ["counts 3 of the kind cube"]),
        ("Three cubes: one red cube and two blue cubes.", "4 cube", ["counts 3 and 1 and 2 of the kind cube"]),
        ("Two cubes. The two cubes are red.", "4 cube", ["counts 2 and 2 of the kind cube"]),
        ("One person and two cups.", "1 person, 3 cup", ["counts 2 of the kind cup"]),
        ("three vases", "2 vase", ["counts 3 of the kind vase"]),
        ("three horses", "2 horse", ["counts 3 of the kind horse"]),
        ("Two knives", "3 knife", ["counts 2 of the kind knife"]),
        ("two people", "3 person", ["counts 2 of the kind person"]),
        ("Two leaves.", "1 leaf", ["counts 2 of the kind leaf"]),
        ("Three sheep.", "2 sheep", ["counts 3 of the kind sheep"]),
        ("thirteen cubes", "2 cube", ["counts 13 of the kind cube"]),
        ("Twenty-one cubes", "20 cube", ["counts 21 of the kind cube"]),
        ("Ninety nine cubes", "9 cube", ["counts 99 of the kind cube"]),
        ("one hundred and two cubes, 1000 cups", "2 cube, 1 cup", ["counts 102 of the kind cube", "counts 1000 of"]),
    ],
)
def test_what_contradicts(caption, objects, found):
    reasons = contradictions(caption, boxes(objects))
    assert len(reasons) == len(found) and all(part in reason for part, reason in zip(found, reasons, strict=True))


def test_a_box_that_is_listed_twice_is_one_object():
    objects = boxes("2 cube, 1 cup")
    assert distinct([*objects, *objects]) == objects

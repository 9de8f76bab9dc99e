"""What a question names, and which episodes contain it."""

import pytest

from penguin_engine.scene.episode import Episode
from penguin_engine.scene.recall_terms import sightings
from penguin_models.grounding import Box, GroundedObject

CAPTIONS = [
    "a red cup and a blue ring on the table",
    "a blue cup and a red ring on the table",
    "a blue ring on the table",
    "an empty table",
    "the green duck on the table",
    "",
]


@pytest.fixture
def episodes():
    made = [Episode("a", 10 * number, id=number, caption=caption) for number, caption in enumerate(CAPTIONS)]
    made.append(Episode("a", 70, id=6, objects=(GroundedObject("red cup", Box(0, 0, 9, 9)),)))
    return made[::-1]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("On which side was the red cup before it left?", [[0, 6]]),
        ("Which came first, the red cup or the red ring?", [[1], [0, 6]]),
        ("Which came first, the red cup or the blue ring?", [[0], [0, 6], [0, 2]]),
        ("Was the CUP on the table?", [[0, 1], [0, 1, 6], [0, 1, 2, 3, 4]]),
        ("Where was the duck?", [[4]]),
        ("How many dücks were there?", [[4]]),
        ("Were there red cups?", [[0, 6]]),
        ("Where was the white duck?", [[4]]),
        ("Was there a red zebra?", [[0, 1, 6]]),
        ("Which objects left?", []),
        ("", []),
        ("?!", []),
    ],
)
def test_the_longest_runs_of_words_are_what_the_question_names(episodes, question, expected):
    found = [[episode.id for episode in group] for group in sightings(question, episodes)]
    assert found == expected


def test_what_is_in_every_episode_counts_only_if_nothing_else_does(episodes):
    on_table = [episode for episode in episodes if "table" in episode.caption]
    assert [len(group) for group in sightings("Was the duck on the table?", on_table)] == [1]
    assert [len(group) for group in sightings("What was on the table?", on_table)] == [5]


@pytest.mark.parametrize(
    ("asked", "captioned"),
    [("boxes", "box"), ("vases", "vase"), ("bus", "buses"), ("glass", "glasses"), ("shoe", "shoes"), ("s", "s")],
)
def test_plurals_name_what_is_captioned_in_the_singular(asked, captioned):
    episodes = [Episode("a", 0, id=0, caption=f"two {captioned}"), Episode("a", 1, id=1, caption="a cup")]
    assert [[episode.id for episode in group] for group in sightings(f"Which {asked}?", episodes)] == [[0]]

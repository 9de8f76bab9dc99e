import cv2
import numpy as np
import pytest
from curation_samples import encoded, picture
from PIL import Image

from penguin_models.errors import SettingError
from penguin_training.curation.duplicates import find_duplicates
from penguin_training.curation.inspection import inspect_shard
from penguin_training.curation.settings import CurationSettings, Filters
from penguin_training.curation.shards import find_shards


def inspected(folder, pictures, filters=None):
    for number, rgb in enumerate(pictures):
        Image.fromarray(rgb).save(folder / f"{number:03d}.png")
    (shard,) = find_shards([folder])
    return inspect_shard(shard, filters or Filters())


def clip(folder, frames):
    folder.mkdir()
    for number, rgb in enumerate(frames):
        Image.fromarray(rgb).save(folder / f"{500 * number:08d}.png")


def test_each_filter_names_value_and_limit(tmp_path):
    pictures = [
        picture(0),
        picture(0)[:50],
        np.hstack([picture(n) for n in range(5)]),
        cv2.GaussianBlur(picture(1), (0, 0), 4),
        cv2.GaussianBlur(np.tile(picture(2), (16, 16, 1)), (0, 0), 1),  # sharp at the size at which it is judged
    ]
    found = [(sample.reason, sample.detail) for sample in inspected(tmp_path, pictures)]
    assert [reason for reason, _ in found] == ["", "too small", "too long", "blurred", ""]
    assert found[1][1] == "a side has 50 pixels, min_side is 64"
    assert found[2][1] == "one side is 5.0 times the other, max_aspect is 4"
    assert "min_sharpness is 8" in found[3][1]


def test_a_static_clip_is_dropped_and_noise_is_no_motion(tmp_path):
    random = np.random.default_rng(0)
    noisy = [np.clip(picture(1) + random.normal(0, 6, (96, 96, 3)), 0, 255).astype(np.uint8) for _ in range(5)]
    moved = [picture(1).copy() for _ in range(5)]
    cv2.rectangle(moved[3], (40, 40), (52, 52), (255, 255, 255), -1)
    for name, frames in (("noisy", noisy), ("moved", moved), ("one", moved[:1])):
        clip(tmp_path / name, frames)
    lines = "".join(f'{{"id": "{name}", "video": "{name}"}}\n' for name in ("noisy", "moved", "one"))
    (tmp_path / "x.jsonl").write_text(lines)
    found = inspect_shard(find_shards([tmp_path / "x.jsonl"])[0], Filters())
    assert [(sample.name, sample.reason) for sample in found] == [("noisy", "static"), ("moved", ""), ("one", "static")]
    assert "min_motion is 3" in found[0].detail


def test_copies_are_found_and_dark_and_plain_pictures_are_not(tmp_path):
    """1: originals. 2: a copy of each, changed. 3: dark ones, plain ones of all colours, noise. 4: exact copies."""
    random = np.random.default_rng(0)
    originals = [picture(number, number % 4) for number in range(40)]
    copies = []
    for rgb in originals:
        small = cv2.resize(rgb[1:, 1:], None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
        brighter = np.clip(small * 1.1, 0, 255).astype(np.uint8)
        copies.append(cv2.imdecode(np.frombuffer(encoded(brighter, quality=60), np.uint8), cv2.IMREAD_COLOR)[..., ::-1])
    dark = [(picture(100 + number) // 20).astype(np.uint8) for number in range(20)]
    plain = [np.full((96, 96, 3), 60 * np.array(levels), np.uint8) for levels in np.ndindex(3, 3, 3)]
    noise = [random.integers(100, 110, (96, 96, 3), np.uint8) for _ in range(20)]
    found = inspected(tmp_path, [*originals, *copies, *dark, *plain, *noise, *dark], Filters(min_sharpness=0))
    duplicate_of = find_duplicates([s.hashes for s in found], [s.colours for s in found], 48)
    first_dark = len(originals) + len(copies)
    last = len(found) - len(dark)
    assert duplicate_of[:40].tolist() == [-1] * 40
    assert duplicate_of[40:first_dark].tolist() == list(range(40))
    assert duplicate_of[first_dark:last].tolist() == [-1] * (last - first_dark)
    assert duplicate_of[last:].tolist() == list(range(first_dark, first_dark + len(dark)))


def test_samples_with_several_views_are_duplicates_only_if_all_are(tmp_path):
    found = inspected(tmp_path, [picture(0), picture(1), picture(2)])
    views = dict(zip("abc", found, strict=True))
    samples = ["ab", "a", "ac", "ab", "a", "", "ba"]
    hashes, colours = ([b"".join(getattr(views[v], k) for v in s) for s in samples] for k in ("hashes", "colours"))
    assert find_duplicates(hashes, colours, 48).tolist() == [-1, -1, -1, 0, 1, -1, -1]
    assert find_duplicates([b""], [b""], 48).tolist() == [-1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Filters(min_side=0), "min_side is 0, it must be at least 1"),
        (lambda: Filters(max_aspect=float("nan")), "max_aspect is nan"),
        (lambda: CurationSettings(0, "e", Filters()), "keep is 0"),
        (
            lambda: CurationSettings(1, "e", Filters(), max_distance=101),
            "max_distance is 101, it must be from 0 to 100",
        ),
        (lambda: CurationSettings(1, "e", Filters(), clusters=(10, 20)), "clusters is 10,20, it must be decreasing"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(SettingError, match=message):
        make()

"""`penguin-vl embed`: one feature vector per image, all tokens on request, damaged images named and left out."""

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from penguin_models import load_encoder


@pytest.fixture
def folder(tmp_path):
    """A folder with two images in subfolders and a damaged one."""
    for name, size, value in (("b/two.png", (56, 70), 200), ("a/one.jpg", (140, 84), 40)):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)
    (tmp_path / "pictures" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path / "pictures"


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_images_of_a_folder(cli, checkpoint, folder, tmp_path, ending):
    out = tmp_path / f"features.{ending}"
    Image.new("RGB", (9000, 2)).save(folder / "long.png")
    result = cli("embed", folder, "--model", checkpoint, "--out", out, "--tokens", "--max-tokens", 64)
    assert result.code == 0 and "2 of 4 images, 2 left out, features of 64 numbers" in result.out
    assert "broken.png" in result.messages[0] and "long.png: one frame needs at least" in result.messages[1]
    one, two = (load_encoder(checkpoint)([np.asarray(Image.open(folder / n))])[0] for n in ("a/one.jpg", "b/two.png"))
    if ending == "npz":
        found = np.load(out)
        features, tokens, sizes = (
            found["features"],
            found["tokens"],
            list(zip(found["rows"], found["columns"], strict=True)),
        )
        names = list(found["name"])
    else:
        table = parquet.read_table(out).to_pydict()
        features, names = np.array(table["feature"]), table["name"]
        tokens = np.concatenate([np.reshape(flat, (-1, 64)) for flat in table["tokens"]])
        sizes = list(zip(table["rows"], table["columns"], strict=True))
    assert names == [str(folder / "a/one.jpg"), str(folder / "b/two.png")] and sizes == [(10, 6), (5, 6)]
    assert np.allclose(tokens, np.concatenate([one, two]), atol=1e-5)
    assert np.allclose(features, [one.mean(0).numpy(), two.mean(0).numpy()], atol=1e-5)


def test_keyframes_of_a_bag(cli, checkpoint, bags, tmp_path):
    scenes = [np.full((60, 80, 3), value, np.uint8) for value in (40, 40, 40, 200, 200, 200)]
    images = [(n / 2, bags.raw(rgb, stamp_ns=10**18 + n * 5 * 10**8)) for n, rgb in enumerate(scenes)]
    bag = bags.write({"/front": images, "/rear": [(0.1, bags.jpeg(scenes[0], stamp_ns=10**18))]})
    out = tmp_path / "features.npz"
    value = cli("embed", "--bag", bag, "--camera", "/front", "--model", checkpoint, "--out", out, "--json").json
    found = np.load(out)
    assert value["images"] == 2 and set(found["name"]) == {"/front"} and "tokens" not in found
    assert list(found["stamp_ns"] - 10**18) == [0, 1_500_000_000]


def test_what_cannot_be_done_is_one_sentence(cli, checkpoint, folder, tmp_path):
    def error(*arguments, out="x.npz"):
        return cli("embed", *arguments, "--model", checkpoint, "--out", tmp_path / out).error

    assert "written to a .npz or .parquet file" in error(folder, out="x.csv")
    assert "none of the 1 images can be read" in error(folder / "broken.png")
    (tmp_path / "empty").mkdir()
    assert "holds no image files; for a bag, use --bag" in error(tmp_path / "empty")
    assert not (tmp_path / "x.npz").exists()

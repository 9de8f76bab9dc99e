import dataclasses
import json
import tarfile
from contextlib import nullcontext

import curation_samples
import numpy as np
import pytest
from curation_samples import COLOURS, InThisProcess, MeanColour, encoded, picture, write_tar
from PIL import Image

from penguin_models.errors import DataError, SettingError, TrainingError
from penguin_training.curation.pipeline import curate
from penguin_training.curation.results import CurationRun
from penguin_training.curation.settings import CurationSettings, Filters
from penguin_training.curation.shards import find_shards
from penguin_training.curation.workers import Workers
from penguin_training.data.annotations import AnnotationFile

COUNTS = 150, 40, 20, 10  # of each kind
SETTINGS = CurationSettings(keep=60, encoder="mean colour", filters=Filters(), clusters=(24, 4))


def no_progress(step, done, total):
    assert 0 <= done <= total


def samples():
    """220 pictures of skewed kinds, a copy of every fifth, a damaged file and a plain one: name and content."""
    kinds = np.repeat(np.arange(len(COUNTS)), COUNTS).tolist()
    found = [(f"{number:03d}-{kind}", encoded(picture(number, kind), quality=92)) for number, kind in enumerate(kinds)]
    found += [(f"copy-{name}", encoded(picture(int(name[:3]), int(name[-1])), quality=50)) for name, _ in found[::5]]
    return [*found, ("damaged", found[0][1][:500]), ("plain", encoded(np.full((96, 96, 3), 90, np.uint8)))]


def run_of(inputs, out, settings=SETTINGS):
    return CurationRun(out, settings, find_shards(inputs))


def write_archives(folder):
    found = samples()
    for number in range(0, len(found), 100):
        members = [(f"{name}.jpg", content) for name, content in found[number : number + 100]]
        write_tar(folder / f"{number:03d}.tar", [*members, (f"{members[-1][0][:-4]}.txt", b"the caption")])
    return folder


def names_in(folder):
    names = []
    for file in sorted(folder.glob("*.tar")):
        with tarfile.open(file) as archive:
            names += archive.getnames()
    return [name.removesuffix(".jpg") for name in names if name.endswith(".jpg")]


def check_result(run, summary):
    dropped = {}
    for file in sorted((run.folder / "dropped").glob("*.jsonl")):
        dropped |= {line["name"]: line for line in map(json.loads, file.read_text().splitlines())}
    kept = [name for name, _ in samples() if name not in dropped]
    assert (summary.samples, summary.kept) == (266, 60) and len(kept) == 60
    assert summary.dropped == {"not selected": 160, "duplicate": 44, "unreadable": 1, "blurred": 1}
    assert all(dropped[f"copy-{name}"]["reason"] == "duplicate" for name, _ in samples()[:220:5])
    assert [name for name, _ in summary.unreadable] == ["damaged"] and "decoded" in dropped["damaged"]["detail"]
    kinds = [sum(name.endswith(f"-{kind}") for name in kept) for kind in range(len(COLOURS))]
    assert min(kinds) == 10 and max(kinds) <= 18, kinds
    before, after = (summary.to_dict()["levels"][-1][f"entropy_{when}_bits"] for when in ("before", "after"))
    assert before < 1.5 and after > 1.9
    page = (run.folder / "report.html").read_text()
    assert "60 of 266 samples selected" in page and page.count('<img src="data:image/jpeg') > 20
    assert "damaged" in page and "min_sharpness" in page and "it shows the same as" in page
    assert json.loads((run.folder / "summary.json").read_text())["kept"] == 60
    return kept


def test_archives_in_and_out_and_a_killed_run_goes_on_where_it_was(tmp_path):
    """1: stopped after one of three shards is embedded. 2: goes on; nothing is done twice. 3: all is done."""
    archives = write_archives(tmp_path / "in")
    run = run_of([archives], tmp_path / "out")

    class Stopping(InThisProcess):
        def run(self, numbers, open_work, uses_encoder=False):
            for done, number in enumerate(super().run(numbers, open_work, uses_encoder)):
                yield number
                if uses_encoder and done == 0 and len(numbers) == 3:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        curate(run, MeanColour, Stopping(), no_progress)
    earlier = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert len(list((tmp_path / "out" / "embedded").glob("*.npy"))) == 1
    done = {}

    def on_progress(step, count, total):
        done.setdefault(step, count)

    summary = curate(run_of([archives], tmp_path / "out"), MeanColour, InThisProcess(), on_progress)
    assert done["inspected"] == 3 and done["embedded"] == 1 and done["assigned"] == 0
    assert all(file.stat().st_mtime_ns == time_ns for file, time_ns in earlier.items())
    assert names_in(tmp_path / "out" / "selected") == check_result(run, summary)
    again = curate(
        run_of([archives], tmp_path / "out"), lambda: pytest.fail("it is done"), InThisProcess(), no_progress
    )
    assert again.to_dict() == summary.to_dict()


def write_lines(folder):
    folder.mkdir()
    lines = []
    for name, content in samples():
        (folder / f"{name}.jpg").write_bytes(content)
        turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": name}]
        lines.append(json.dumps({"id": name, "image": f"{name}.jpg", "conversations": turns}))
    (folder / "samples.jsonl").write_text("\n".join(lines))
    return folder / "samples.jsonl"


def test_lines_in_and_out_can_be_trained_on(tmp_path):
    run = run_of([write_lines(tmp_path / "in")], tmp_path / "out")
    kept = check_result(run, curate(run, MeanColour, InThisProcess(), no_progress))
    file = AnnotationFile(tmp_path / "out" / "selected" / "samples.jsonl")
    assert [file.name(row) for row in range(len(file))] == kept
    assert all(Image.open(file[row].media[0].path).size == (96, 96) for row in range(len(file)))
    assert file[0].messages[1]["content"] == kept[0]


def test_a_table_keeps_its_columns(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"id": name, "image": {"bytes": content, "path": ""}, "score": 0.5} for name, content in samples()]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.Table.from_pylist(rows, pa.schema([("id", pa.string()), ("image", image), ("score", pa.float32())]))
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=90)
    run = run_of([tmp_path / "x.parquet"], tmp_path / "out")
    kept = check_result(run, curate(run, MeanColour, InThisProcess(), no_progress))
    written = pa.concat_tables(parquet.read_table(file) for file in sorted((tmp_path / "out/selected").iterdir()))
    assert written.schema.equals(table.schema) and written.column("id").to_pylist() == kept


def test_pictures_that_the_encoder_refuses_are_named_and_the_others_go_on(tmp_path):
    class Refusing(MeanColour):
        def __call__(self, images):
            if any((rgb[:, :, 0] == 255).all() for rgb in images):
                raise DataError("this picture is too red")
            vectors = super().__call__(images)
            vectors[[(rgb[:, :, 2] == 255).all() for rgb in images]] = np.nan
            return vectors

    (tmp_path / "in").mkdir()
    for number in range(6):
        rgb = picture(number)
        if number in (3, 5):
            rgb[:, :, number - 3] = 255
        Image.fromarray(rgb).save(tmp_path / "in" / f"{number}.png")
    run = run_of([tmp_path / "in"], tmp_path / "out", dataclasses.replace(SETTINGS, keep=3, clusters=()))
    summary = curate(run, Refusing, InThisProcess(), no_progress)
    assert summary.dropped == {"not embedded": 2, "not selected": 1} and summary.kept == 3
    (first, second) = summary.unreadable
    assert first == ("3.png", "this picture is too red") and second[0] == "5.png" and "not finite" in second[1]
    lines = (tmp_path / "out/selected/samples.jsonl").read_text().splitlines()
    assert len(lines) == 3 and not any("3.png" in line for line in lines)


def test_an_encoder_that_cannot_be_used_is_found_before_anything_is_written(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(picture(0)).save(tmp_path / "in" / "1.png")

    def missing():
        raise DataError("nope is no encoder")

    class Blind:
        def __call__(self, images):
            raise DataError("it embeds no images")

    steps = []
    for open_embedder, message in ((missing, "nope is no encoder"), (Blind, "embeds no images")):
        run = run_of([tmp_path / "in"], tmp_path / "out")
        with pytest.raises(DataError, match=message):
            curate(run, open_embedder, InThisProcess(), lambda step, done, total: steps.append(step))
    assert not steps and not (tmp_path / "out").exists()
    other = dataclasses.replace(SETTINGS, encoder="another", keep=1)
    assert (
        curate(run_of([tmp_path / "in"], tmp_path / "out", other), MeanColour, InThisProcess(), no_progress).kept == 1
    )


def test_nothing_is_left_to_select_from(tmp_path):
    Image.fromarray(picture(0, side=40)).save(tmp_path / "1.png")
    run = run_of([tmp_path], tmp_path / "out")
    with pytest.raises(DataError, match="no sample is left to select from"):
        curate(run, MeanColour, InThisProcess(), no_progress)


def test_another_run_in_the_folder_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(picture(0)).save(tmp_path / "in" / "1.png")
    run_of([tmp_path / "in"], tmp_path / "out").start()
    with pytest.raises(SettingError, match="keep is 60 there, and 61 here; choose a new folder"):
        run_of([tmp_path / "in"], tmp_path / "out", dataclasses.replace(SETTINGS, keep=61)).start()
    Image.fromarray(picture(1)).save(tmp_path / "in" / "2.png")
    with pytest.raises(SettingError, match="a file was added, removed or changed"):
        run_of([tmp_path / "in"], tmp_path / "out").start()
    with pytest.raises(DataError, match="lies in the input"):
        find_shards([tmp_path], out=tmp_path / "out")
    with pytest.raises(SettingError, match="holds no curation"):
        run_of([tmp_path / "in"], tmp_path / "in").start()


class Connected(Workers):
    """Workers in a Ray session that is open."""

    def connected(self):
        return nullcontext()


def test_shards_are_distributed_by_ray_data(tmp_path):
    """A run in two processes gives what this process gives, and an error of a worker is a sentence."""
    ray = pytest.importorskip("ray", reason="curation is an extra: pip install '.[curate]'")
    ray.cloudpickle.register_pickle_by_value(curation_samples)  # workers cannot import it

    def fails(number):
        raise DataError(f"shard {number} is lost")

    run = run_of([write_archives(tmp_path / "in")], tmp_path / "out")
    workers = Connected(processes=2)
    with Workers(processes=2).connected():
        check_result(run, curate(run, MeanColour, workers, no_progress))
        with pytest.raises(TrainingError, match="shard 7 is lost"):
            list(workers.run([7], lambda: fails))

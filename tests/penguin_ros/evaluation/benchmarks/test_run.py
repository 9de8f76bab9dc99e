"""Benchmarks from files to results, with a scripted model."""

import json

import av
import numpy as np
import pytest
from PIL import Image

from penguin_models.errors import EvaluationError, MediaError
from penguin_ros.evaluation.bags.run import RunOptions
from penguin_ros.evaluation.benchmarks.items import FramesMedia, MediaClip, VideoMedia
from penguin_ros.evaluation.benchmarks.run import read_items, run_benchmark
from penguin_ros.evaluation.records import FileSettings, ModelSpec
from penguin_ros.evaluation.report.page import render
from penguin_ros.evaluation.results import load_results


@pytest.fixture
def charts(tmp_path):
    """ChartQA with two charts; their grey is their number."""
    folder = tmp_path / "charts"
    (folder / "png").mkdir(parents=True)
    for number in (40, 80):
        Image.fromarray(np.full((56, 84, 3), number, np.uint8)).save(folder / "png" / f"{number}.png")
    human = [{"imgname": f"{n}.png", "query": "What number is it?", "label": str(n)} for n in (40, 80)]
    (folder / "test_human.json").write_text(json.dumps(human))
    (folder / "test_augmented.json").write_text(json.dumps(human[:1]))
    return folder


@pytest.fixture
def run(charts, scripted, checkpoint, tmp_path):
    def start(runtime=None, items=None, **options):
        runtime = runtime or scripted(lambda asked, numbers: str(numbers[0] if numbers[0] < 60 else 90))
        return run_benchmark(
            "chartqa",
            items or read_items("chartqa", charts),
            ModelSpec(path=str(checkpoint)),
            FileSettings(max_tokens=200),
            RunOptions(out=tmp_path / "out", **options),
            loaded=(runtime, runtime.processor),
        )

    return start


def test_a_benchmark_is_scored(run, tmp_path):
    """40 is right; 90 for 80 is more than 5 % off."""
    results = run()
    assert {r.question: (r.raw, r.correct) for r in results.records} == {
        "human-0": ("40", True),
        "human-1": ("90", False),
        "augmented-0": ("40", True),
    }
    summary = results.summary["methods"]["file"]
    assert summary["metrics"]["relaxed"]["value"] == pytest.approx(2 / 3)
    assert summary["groups"]["kind"]["human"]["metrics"]["accuracy"]["value"] == 0.5
    assert load_results(tmp_path / "out") == results
    assert results.title.endswith("on ChartQA, test")


def test_results_that_are_to_go_into_a_file(run, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(EvaluationError, match=r"results go into a folder, and .*out is a file; choose another --out"):
        run()


def test_an_interrupted_benchmark_goes_on(run, scripted, charts):
    runtime = scripted(lambda asked, numbers: "40")
    run(runtime, read_items("chartqa", charts, limit=2))
    assert len(runtime.asked) == 2
    rest = scripted(lambda asked, numbers: "40")
    assert len(run(rest).records) == 3 and len(rest.asked) == 1


def test_answers_of_another_model_are_not_mixed_in(run, scripted, charts, tmp_path, edit_checkpoint):
    run()
    runtime = scripted(lambda asked, numbers: "40")
    other = edit_checkpoint(tensors=lambda t: t["model.norm.weight"].__iadd__(1))
    with pytest.raises(EvaluationError, match="holds answers of another model"):
        run_benchmark(
            "chartqa",
            read_items("chartqa", charts),
            ModelSpec(path=str(other)),
            FileSettings(max_tokens=200),
            RunOptions(out=tmp_path / "out"),
            loaded=(runtime, runtime.processor),
        )


def test_a_file_that_is_broken_is_an_error_of_its_question(run, charts):
    (charts / "png" / "80.png").write_bytes(b"nothing")
    results = run()
    assert [r.error is None for r in results.records] == [True, False, True]
    assert "80.png is not an image" in results.records[1].error


def test_a_benchmark_has_a_page(run, tmp_path):
    html = render([run()], [tmp_path / "out"])
    assert html.count("data:image/jpeg") == 2 and "relaxed accuracy" in html and "recall</h3>" not in html


# Parts of videos.


@pytest.fixture
def video(tmp_path):
    """Ten seconds of video at 5 frames a second, whose grey grows by 2 each frame."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 + 2 * index, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def greys(clip):
    return [(round(time_s, 2), round((rgb.mean() - 40) / 2)) for time_s, rgb in clip]


def test_a_part_of_a_video_begins_at_zero(video):
    whole = greys(MediaClip(VideoMedia(video), 1.0, 180))
    part = greys(MediaClip(VideoMedia(video, 3.0, 6.0), 1.0, 180))
    assert [time_s for time_s, _ in part] == [0, 1, 2, 3]
    assert [grey for _, grey in part] == [grey for time_s, grey in whole if 3 <= time_s <= 6]
    few = greys(MediaClip(VideoMedia(video, 3.0, 6.0), 1.0, 2))
    assert few == [part[0], part[-1]]


def test_a_part_that_is_not_there(video):
    with pytest.raises(MediaError, match=r"clip.mp4 has no frames from 20.0 to 30.0 s"):
        MediaClip(VideoMedia(video, 20.0, 30.0), 1.0, 180)


def test_frames_in_a_folder(tmp_path):
    """Twelve frames, three a second: of each second the first."""
    for index in range(12):
        Image.new("RGB", (8, 8), (index, index, index)).save(tmp_path / f"{index:05d}.png")
    clip = MediaClip(FramesMedia(tmp_path, 3.0), 1.0, 180)
    assert [(time_s, int(rgb.mean())) for time_s, rgb in clip] == [(0, 0), (1, 3), (2, 6), (3, 9)]
    part = MediaClip(FramesMedia(tmp_path, 3.0, 1.0, 2.0), 1.0, 180)
    assert [(time_s, int(rgb.mean())) for time_s, rgb in part] == [(0, 3), (1, 6)]


def test_a_video_is_asked_about(video, scripted, checkpoint, tmp_path):
    folder = tmp_path / "charades"
    folder.mkdir()
    video.rename(folder / "ABC.mp4")
    (folder / "charades_sta_test.txt").write_text("ABC 2.0 4.0##person turn a light on.\n")
    runtime = scripted(lambda asked, numbers: "The event happens in the 2.0 - 5.0 seconds.")
    results = run_benchmark(
        "charades-sta",
        read_items("charades-sta", folder),
        ModelSpec(path=str(checkpoint)),
        FileSettings(max_tokens=400),
        RunOptions(out=tmp_path / "out"),
        loaded=(runtime, runtime.processor),
    )
    (record,) = results.records
    assert record.frames == 10 and record.spans == [(2.0, 5.0)] and record.age_s is None
    metrics = results.summary["methods"]["file"]["metrics"]
    assert metrics["time_miou"]["value"] == pytest.approx(2 / 3)
    assert (metrics["time_r0.5"]["value"], metrics["time_r0.7"]["value"]) == (1, 0)

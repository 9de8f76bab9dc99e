"""Scores of judged conditions: calibration error by hand, a fit that finds known numbers, and the command."""

import json
import shutil

import numpy as np
import pytest

from penguin_models.errors import EvaluationError
from penguin_models.watch import Calibration
from penguin_ros.evaluation.tabletop.watch_scores import Judged, fit

pytest.importorskip("pybullet", reason="PyBullet is not installed: pip install pybullet")


def test_the_calibration_error_is_that_of_bins_with_equally_many_judgements():
    judged = Judged(np.array([0.9, 0.1, 0.6, 0.4]), np.array([True, False, False, True]))  # a bin each
    assert judged.calibration_error == pytest.approx((0.1 + 0.1 + 0.6 + 0.6) / 4) and judged.accuracy == 0.5
    twenty = Judged(np.repeat(np.arange(10) / 10 + 0.05, 2), np.tile([True, False], 10))
    assert twenty.calibration_error == pytest.approx(0.25)


def test_a_fit_undoes_a_known_distortion():
    random = np.random.default_rng(0)
    value = random.normal(0, 2, 20_000)
    judged = Judged(1 / (1 + np.exp(-(2 * value + 1))), random.random(20_000) < 1 / (1 + np.exp(-value)))
    found = fit(judged)
    assert (found.scale, found.offset) == (pytest.approx(0.5, abs=0.03), pytest.approx(-0.5, abs=0.05))
    assert judged.calibrated(found).calibration_error < 0.02 < 0.1 < judged.calibration_error
    assert found.samples == 20_000
    with pytest.raises(EvaluationError, match="4 of 4 conditions hold"):
        fit(Judged(np.full(4, 0.5), np.full(4, True)))
    separable = fit(Judged(np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True])))
    assert np.isfinite(separable.scale)
    assert fit(Judged(np.array([0.9, 0.8, 0.2, 0.1]), np.array([False, False, True, True]))).scale > 0


def test_the_command_fits_writes_and_uses_a_calibration(cli, checkpoint, tmp_path):
    model = shutil.copytree(checkpoint, tmp_path / "model")
    options = ("evaluate", "watch", "--model", model, "--scenes", 2, "--size", "112x112")
    assert "the model has no watch_calibration.json; --fit writes one" in cli(*options).out
    fitted = json.loads(cli(*options, "--fit", "--json").out)
    after = json.loads(cli(*options, "--json").out)
    assert after == fitted and after["calibration"]["samples"] > 1
    assert Calibration(**json.loads((model / "watch_calibration.json").read_text())) == Calibration(
        **after["calibration"]
    )
    scores = after["scores"]
    assert 0 <= scores["calibration_error"] <= 1 and scores["judgements"] > 1
    refused = cli("evaluate", "watch", "--model", "owner/name", "--fit")
    assert (
        refused.code == 1 and "owner/name is not a folder, so watch_calibration.json cannot be written" in refused.err
    )

"""The benchmark in small: rendered pictures, known copies, and an exit code that says whether the goals are reached."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from curation_samples import InThisProcess, MeanColour

from penguin_training.curation.pipeline import curate
from penguin_training.curation.results import CurationRun
from penguin_training.curation.settings import CurationSettings, Filters
from penguin_training.curation.shards import find_shards

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts" / "curation_benchmark.py"
KINDS = ("cube", "ball", "bottle", "bowl", "mug", "duck", "teddy", "rabbit", "brick", "ring", "cone", "tray")


def run_step(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


def keep_only(folder, out, wanted):
    """Rewrites what was dropped, so that only these kinds and numbers of samples are selected."""
    left, lines = Counter(wanted), []
    for truth in map(json.loads, (folder / "truth.jsonl").open()):
        left[truth["kind"]] -= 1
        if left[truth["kind"]] < 0:
            lines.append(json.dumps({"name": truth["name"], "reason": "not selected"}) + "\n")
    for file in (out / "dropped").iterdir():
        file.write_text("")
    (out / "dropped" / "00000.jsonl").write_text("".join(lines))


def test_a_small_run_finds_the_copies_and_missed_goals_fail(tmp_path):
    pytest.importorskip("pybullet", reason="PyBullet is not installed: pip install pybullet")
    folder, out = tmp_path / "data", tmp_path / "out"
    for step in (("render", folder, "--pictures", 200), ("pack", folder, "--samples", 300)):
        done = run_step(*step)
        assert done.returncode == 0, done.stderr
    settings = CurationSettings(keep=60, encoder="mean colour", filters=Filters(), clusters=(12, 4))
    run = CurationRun(out, settings, find_shards([folder / "archives"]))
    summary = curate(run, MeanColour, InThisProcess(), lambda step, done, total: None)
    assert summary.samples == 300 and summary.dropped["duplicate"] >= 80

    keep_only(folder, out, dict.fromkeys(KINDS, 4))
    scored = run_step("score", folder, out)
    recall, precision = map(float, re.findall(r"(?:recall|precision) ([\d.]+)", scored.stdout))
    assert (scored.returncode, scored.stderr) == (0, "") and recall >= 0.99 and precision >= 0.99

    keep_only(folder, out, dict.fromkeys(KINDS, 300))
    scored = run_step("score", folder, out)
    assert (
        scored.returncode == 1
        and scored.stderr == "missed: rise of the entropy over kinds in bits is 0.0000, below 0.4\n"
    )

    keep_only(folder, out, dict.fromkeys(KINDS, 4))
    found = np.load(out / "duplicates.npy")
    found[np.flatnonzero(found >= 0)[:20]] = -1
    found[found < 0] = np.where(np.arange((found < 0).sum()) < 20, 0, -1)
    np.save(out / "duplicates.npy", found)
    scored = run_step("score", folder, out)
    assert scored.returncode == 1 and "recall of duplicates is" in scored.stderr and "precision of" in scored.stderr


def test_the_documented_commands_are_those_of_the_script():
    docstring = re.sub(r"\\{2}\n +", "", SCRIPT.read_text())
    commands = re.findall(r"^    ((?:python scripts|penguin-vl).+)$", docstring, re.MULTILINE)[:4]
    assert [command.split()[2] for command in commands] == ["render", "pack", "DIR/archives", "score"]
    assert "\n".join(commands) in (ROOT / "docs" / "curation.md").read_text()

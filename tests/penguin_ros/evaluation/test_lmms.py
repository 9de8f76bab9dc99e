"""lmms-eval with the model class of this package: a task with two images.

The requirements of lmms-eval (PyAV below 16 and some two hundred packages) conflict with constraints.txt, so it runs as
a program from an environment of its own. docs/evaluation.md shows how to install it, and LMMS_EVAL names the program:
`LMMS_EVAL=lmms/bin/lmms-eval pytest tests/penguin_ros/evaluation/test_lmms.py`
"""

import json
import os
import shutil
import subprocess

import pytest
from PIL import Image

from penguin_engine.runtimes.torch import TorchRuntime
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.offline import ask
from penguin_models.media import load_image

LMMS_EVAL = os.environ.get("LMMS_EVAL") or shutil.which("lmms-eval")
UTILS = """
from PIL import Image

def doc_to_visual(doc):
    return [Image.open(doc["path"])]

def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return "<image>\\n" + doc["question"]

def process_results(doc, results):
    return {"exact": float(results[0].strip() == doc["answer"].strip())}
"""
TASK = """
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/data.jsonl
task: two_pictures
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 8, until: ["\\n\\n"], temperature: 0, do_sample: false}}
process_results: !function utils.process_results
metric_list: [{{metric: exact, aggregation: mean, higher_is_better: true}}]
"""


@pytest.mark.timeout(900)  # lmms-eval reads all of its own tasks before it starts
@pytest.mark.skipif(LMMS_EVAL is None, reason="lmms-eval is not installed; set LMMS_EVAL to the program")
def test_lmms_eval_gets_the_answers_of_ask(tmp_path, model, processor, checkpoint):
    question, task = "What colour is it?", tmp_path / "task"
    task.mkdir()
    answers = []
    for colour in ("red", "blue"):
        Image.new("RGB", (112, 84), colour).save(tmp_path / f"{colour}.png")
        image = load_image(tmp_path / f"{colour}.png")
        sampling = Sampling(max_new_tokens=8)
        answers.append(ask(TorchRuntime(model), processor, question, [image], max_tokens=64, sampling=sampling).raw)
    rows = [
        {"path": str(tmp_path / "red.png"), "question": question, "answer": answers[0]},
        {"path": str(tmp_path / "blue.png"), "question": question, "answer": "something else"},
    ]
    (task / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (task / "utils.py").write_text(UTILS)
    (task / "two_pictures.yaml").write_text(TASK.format(folder=task))
    arguments = ["--model", "penguin_vl", "--model_args", f"pretrained={checkpoint},max_tokens=64,device=cpu"]
    arguments += ["--tasks", "two_pictures", "--include_path", str(task), "--batch_size", "1"]
    arguments += ["--log_samples", "--output_path", str(tmp_path / "out")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([LMMS_EVAL, *arguments], cwd=tmp_path, env=environment, capture_output=True, timeout=800)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    (samples,) = (tmp_path / "out").rglob("*samples_two_pictures.jsonl")
    found = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [sample["filtered_resps"] for sample in found] == [answer.strip() for answer in answers]
    assert [sample["exact"] for sample in found] == [1, 0]

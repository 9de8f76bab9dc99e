"""Stage files: every mistake is reported in one line with the key, the value and what is allowed."""

import pytest

from penguin_models.errors import SettingError
from penguin_training.settings.stage_file import load_settings


def change(values, key, value):
    *parents, last = key.split(".")
    for name in parents:
        values = values[int(name)] if isinstance(values, list) else values.setdefault(name, {})
    values[last] = value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("budgets.tokenz", 3, r"budgets.tokenz is not a setting; did you mean tokens\?"),
        ("qwertz", 3, "qwertz is not a setting; known are budgets, data,"),
        ("data.files.0.repeats", 2, r"data.files.0.repeats is not a setting; did you mean repeat\?"),
        ("budgets.tokens", 0, "budgets.tokens is 0: input should be greater than or equal to 1"),
        ("budgets.tokens", True, "budgets.tokens is True: input should be a valid integer"),
        ("engine.precision", "fp8", "engine.precision is 'fp8': input should be 'float32' or 'bf16'"),
        ("learning_rates.llm", "fast", "learning_rates.llm is 'fast': input should be a valid number"),
        ("optimizer.beta2", 1.0, "optimizer.beta2 is 1.0: input should be less than 1"),
        ("data.files", [], "data.files is \\[\\]: list should have at least 1 item"),
        ("budgets.visual_tokens", 600, "visual_tokens 600 must not exceed tokens 256"),
        ("schedule.epochs", 1.0, "give exactly one of epochs and steps"),
        ("schedule", {"epochs": 1.0, "warmup_share": 1.5}, "schedule.warmup_share is 1.5: input should be less"),
        ("model.new_model", {"llm": "x"}, r"give exactly one of start, .* not \['start', 'new_model'\]"),
        ("learning_rates.adapter", 1e-3, "learning_rates.adapter and the section reconstruction belong together"),
        ("data.files", [{"path": "x.jsonl", "conversations": False}], "x.jsonl without conversations teaches nothing"),
        ("data.files", [{"repeat": 2.0}], "data.files.0: give exactly one of path and tabletop"),
        (
            "data.files",
            [{"tabletop": {"scenes": 4}}],
            "tabletop scenes are rendered .* cannot be indexed; set streamed",
        ),
        ("lora", {"rank": 4}, "learning_rates.lora and the section lora belong together"),
        ("learning_rates", {}, "learning_rates trains nothing"),
        ("kind", "text", "a text stage has no encoder, patch_embedding, projector"),
        ("data.streamed", True, None),
    ],
)
def test_mistakes_are_reported(values, parse, key, value, message):
    change(values, key, value)
    if message is None:
        assert parse(values).data.streamed
        return
    with pytest.raises(SettingError, match=message):
        parse(values)


def test_cross_checks_between_sections(values, parse):
    values["data"]["streamed"] = True
    values["schedule"] = {"epochs": 1}
    with pytest.raises(SettingError, match=r"streamed has no known length; set schedule\.steps"):
        parse(values)
    values["data"] |= {"streamed": False, "train_on": "all", "answer_balance": 0.5}
    with pytest.raises(SettingError, match="answer_balance needs train_on answers; set it to 0"):
        parse(values)
    values["data"]["answer_balance"] = 0
    values["lora"], values["learning_rates"]["lora"] = {}, 1e-4
    with pytest.raises(SettingError, match=r"learning_rates\.llm must be null"):
        parse(values)


def test_sharding_and_teachers_limit_other_settings(values, parse, reconstruction):
    reconstruction(values, reading=1.0)
    values["optimizer"] = {"kind": "muon"}
    assert parse(values).reconstruction.reading == 1.0
    values["engine"]["sharding"] = "fsdp2"
    with pytest.raises(SettingError, match=r"muon needs whole matrices, which engine\.sharding fsdp2 splits"):
        parse(values)
    values["reconstruction"]["teacher"]["kind"] = "siglip"
    with pytest.raises(SettingError, match=r"reading must be 0, not 1\.0: a siglip teacher has no classifiers"):
        parse(values)


def test_several_problems_are_counted(values, parse):
    values["budgets"]["tokens"], values["engine"]["seed"] = 0, -1
    with pytest.raises(SettingError, match=r"\(and 1 more\)"):
        parse(values)


STAGE = """
name: x
kind: multimodal
output: out
model: {start: m}
learning_rates: {llm: 1e-5}
data: {files: [{path: a.jsonl}]}
budgets: {tokens: 100, visual_tokens: 50, micro_batches: 2}
schedule: {epochs: 1}
"""


def test_overrides_replace_settings_of_a_file(tmp_path):
    path = tmp_path / "stage.yaml"
    path.write_text(STAGE)
    settings = load_settings(path, ["engine.seed=3", "learning_rates.encoder=2e-4", "data.files=[{path: b.jsonl}]"])
    assert settings.learning_rates.llm == 1e-5 and settings.learning_rates.encoder == 2e-4
    assert settings.engine.seed == 3 and settings.data.files[0].path == "b.jsonl"
    files = load_settings(path, ["data.files.0.repeat=2.0", "data.files.0.only={family: [a]}"]).data.files
    assert (files[0].path, files[0].repeat, files[0].only) == ("a.jsonl", 2.0, {"family": ["a"]})


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("a: [", (), "line 1 is not valid YAML: expected the node content"),
        ("a: \x01", (), "is not valid YAML: .*special characters are not allowed"),
        ("a: 2001-99-99", (), "is not valid YAML: month must be in"),
        ("[" * 1200, (), "is not valid YAML"),
        ("a: !!python/object/apply:os.system [id]", (), "is not valid YAML: could not determine a constructor"),
        ("- a", (), "holds a list; a stage file is a mapping"),
        ("name: a\nname: b", (), "line 2 is not valid YAML: found duplicate key"),
        (STAGE, ["engine"], "--set 'engine' must have the form key=value"),
        (STAGE, ["name.x=1"], "there are no settings below 'x'"),
        (STAGE, ["data.files.1.repeat=2.0"], r"1 is not an index of a list of 1 \(from 0\)"),
        (STAGE, ["data.files.path=x"], r"path is not an index of a list of 1"),
        (STAGE, ["engine.sed=1"], r"engine.sed is not a setting; did you mean seed\?"),
    ],
)
def test_a_broken_file_is_reported_in_one_line(tmp_path, text, overrides, message):
    path = tmp_path / "stage.yaml"
    path.write_text(text)
    with pytest.raises(SettingError, match=message) as raised:
        load_settings(path, overrides)
    assert "\n" not in str(raised.value)


def test_missing_and_binary_files_are_reported(tmp_path):
    path = tmp_path / "stage.yaml"
    path.write_bytes(STAGE.replace("name: x", "name: \xe9").encode("latin-1"))
    with pytest.raises(SettingError, match=r"stage\.yaml is not UTF-8 .* re-encode it"):
        load_settings(path)
    with pytest.raises(SettingError, match="cannot be read: No such file"):
        load_settings(tmp_path / "none.yaml")

"""The settings of a stage: `load_settings` (stage_file.py) reads a YAML file into `StageSettings` (stage.py).

model.py, data.py and teacher.py hold the larger sections; field_types.py the limits that fields share.
"""

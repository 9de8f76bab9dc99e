"""The settings of a stage: `load_settings` (stage_file.py) reads a YAML file into `StageSettings` (stage.py).

model.py and data.py hold the larger sections; field_types.py the limits that fields share.
"""

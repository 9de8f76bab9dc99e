"""The trained model: `build_model` (build_model.py) assembles a `StageModel` (stage_model.py): a batch in, losses out.

blueprint.py knows its sizes before weights are read; teachers.py loads the encoder that it imitates; losses.py and
packed_attention.py are what it computes.
"""

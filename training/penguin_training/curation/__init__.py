"""Curation: a large, repetitive set of pictures and clips -> a smaller, balanced one.

`pipeline.py` runs the steps in order; each writes its result below the output folder (`results.py`), shard by shard, so
that a run that was stopped goes on there. `inspection.py` decodes and measures, `duplicates.py` finds copies,
`embedding.py` encodes, `clustering.py` and `farthest_points.py` select, `shards.py`, `shard_rows.py` and
`selected_files.py` read and write, `summary.py` and `report.py` show the result; `workers.py` is all that knows Ray.
"""

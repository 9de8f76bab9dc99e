"""Running a stage: `build_run` (build_run.py) makes a `Run` of settings, `train` (loop.py) takes it to its end.

saved_state.py is what a run resumes from, checkpoint.py the model for use; dry_run.py checks a stage without weights.
"""

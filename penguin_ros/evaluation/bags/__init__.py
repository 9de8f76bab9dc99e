"""Evaluation on recorded bags, from a bag to results:

run.py (the whole run) -> plan.py (recording.py, ground_truth.py: what the bags contain) -> jobs.py (work on one bag)
-> workers.py (where jobs run) -> replay.py, realtime.py (frames and questions in order of time) -> methods.py
(how questions are answered) -> ../records.py (answers) -> ../results.py (scores).
"""

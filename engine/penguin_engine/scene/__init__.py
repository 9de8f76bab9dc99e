"""Frames in, answers out: mailbox.py -> worker.py -> session.py (memory.py, KV cache) -> generation.py -> answer.py.

Questions wait in requests.py. Files and clips without a scene are answered by offline.py.
"""

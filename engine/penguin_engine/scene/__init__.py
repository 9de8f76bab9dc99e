"""Frames in, answers out: mailbox.py -> scene.py -> session.py (memory.py, KV cache) -> generation.py -> answer.py.

worker.py does the most urgent piece of work: answering.py, watching.py, captioning.py. Questions wait in requests.py.
Files and clips without a scene are answered by offline.py.
"""

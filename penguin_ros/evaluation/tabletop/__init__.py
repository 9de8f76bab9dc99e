"""Evaluation on the simulated table-top."""

"""Recall measured by the age of the evidence, on long recordings of the simulated table-top."""

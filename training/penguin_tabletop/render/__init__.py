"""Pixels: table, objects, printed words and camera sensor, rendered on the CPU."""

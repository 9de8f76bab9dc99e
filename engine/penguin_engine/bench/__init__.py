"""Measurements of models, runtimes, keyframe policies and quantised variants; no robot runs them."""

"""Scores a model on recorded bags and on the usual benchmarks; no ROS needed."""

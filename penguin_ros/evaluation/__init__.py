"""Scores a model on recorded bags and on the simulated table-top; needs no ROS installation."""

"""Runs the model: export, runtimes, scene (memory, sessions, answers) and benchmarks. Does not use ROS."""

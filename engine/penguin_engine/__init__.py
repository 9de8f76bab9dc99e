"""Running the model: runtimes, generation, questions and benchmarks. No ROS."""

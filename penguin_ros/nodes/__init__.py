"""ROS 2 nodes: the lifecycle node that watches and answers, and those that replay, ask and simulate."""

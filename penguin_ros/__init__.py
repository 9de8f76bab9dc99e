"""Everything that meets ROS or its users: messages, bags and the command line."""

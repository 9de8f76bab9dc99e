"""Reads the files of a bag: MCAP, SQLite (rosbag2) and ROS 1. Knows messages as bytes, not as images."""

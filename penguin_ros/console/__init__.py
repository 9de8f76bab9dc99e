"""The web console: a page that shows a running node and asks it (server.py serves it, robot.py talks to the node)."""

"""The `penguin-vl` command line, one file for each command."""

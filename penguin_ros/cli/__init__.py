"""The command line `penguin-vl`; app.py lists the commands and the files that implement them."""

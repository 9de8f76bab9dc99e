"""One file for each runtime; all of them are a `penguin_engine.runtimes.base.Runtime`."""

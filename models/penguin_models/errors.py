"""The package's error tree: what a user or a robot can cause, never our own bugs (those are assertions).

Every message names the value, the limit and the remedy. The command line turns these into one line and exit code 1,
the ROS node into an error code.
"""


class PenguinError(ValueError):
    """Base of every error that the caller can cause and cure."""


class CheckpointError(PenguinError):
    """A checkpoint folder is missing, incomplete or does not fit its configuration."""


class MediaError(PenguinError):
    """An image, video or bag is missing, empty or cannot be decoded."""


class BudgetError(PenguinError):
    """A token budget is too small for what must fit into it."""


class ContextLengthError(PenguinError):
    """A prompt is longer than the model's context, or than the cache that was opened for it."""


class NoFramesError(PenguinError):
    """A question about what has been seen, before anything was seen."""


class PolicyError(PenguinError):
    """A setting of a key-frame policy is out of range."""


class PromptError(PenguinError):
    """A conversation is malformed, or its placeholders do not match its images."""


class EngineError(PenguinError):
    """An exported folder, a plan or a runtime is missing, damaged, or does not fit the model or this machine."""

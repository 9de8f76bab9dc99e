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


class WriteError(PenguinError):
    """A file cannot be written: the disk is full, or its folder is read-only."""


class BudgetError(PenguinError):
    """A token budget is too small for what must fit into it."""


class ContextLengthError(PenguinError):
    """A prompt is longer than the model's context, or than the cache that was opened for it."""


class DeviceMemoryError(PenguinError):
    """A device has too little memory for the weights, or for what is to be run at once."""


class EvaluationError(PenguinError):
    """Questions or results are missing or malformed, or do not fit each other."""


class NoFramesError(PenguinError):
    """A question about what has been seen, before anything was seen."""


class BusyError(PenguinError):
    """More questions wait than the queue may hold."""


class CancelledError(PenguinError):
    """A question was given up before its answer began: by who asked, or because the robot stopped."""


class UnknownCameraError(PenguinError):
    """A question about a camera that is not watched."""


class NotActiveError(PenguinError):
    """A question to a node that is not active."""


class PolicyError(PenguinError):
    """A setting of a key-frame policy is out of range."""


class PromptError(PenguinError):
    """A conversation is malformed, or its placeholders do not match its images."""


class EngineError(PenguinError):
    """An exported folder, a plan or a runtime is missing, damaged, or does not fit the model or this machine."""


class TabletopError(PenguinError):
    """A setting of the simulated table-top is out of range, or what renders it is missing."""


class SettingError(PenguinError):
    """A setting (of the node, of a stage file) is unknown, out of range, or contradicts another."""


class DataError(PenguinError):
    """Training data is missing, malformed, or too much of it is."""


class TrainingError(PenguinError):
    """A training run cannot start, go on or be resumed."""

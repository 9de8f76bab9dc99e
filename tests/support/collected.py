"""The results of a replay, sorted by their kind."""

from penguin_ros.evaluation.records import AnswerRecord


class Collected:
    """Runs a replay to its end."""

    def __init__(self, results):
        results = list(results)
        self.answers = [item for item in results if isinstance(item, AnswerRecord)]
        self.timelines = [item for item in results if not isinstance(item, AnswerRecord)]

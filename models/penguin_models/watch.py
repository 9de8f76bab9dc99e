"""The model judges a condition: the probability that a statement holds in the newest frame that it has seen.

Training (a turn whose answer is "yes" or "no") and inference use the same prompt. The model's own probability is too
high or too low in a way that is characteristic of its training; a calibration of two numbers corrects that.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

from penguin_models.errors import CheckpointError
from penguin_models.judge import yes_probability
from penguin_models.processor import CALIBRATION, Processor
from penguin_models.types import Float32Array

_INSTRUCTION = "Is this true now? Answer yes or no."
_LEAST = 1e-7


def watch_question(condition: str) -> str:
    """Returns the text of the user turn, after the frames, that asks whether a condition holds."""
    return f"{condition}\n{_INSTRUCTION}"


@dataclass(frozen=True)
class Calibration:
    """Platt scaling of a model's probability p: sigmoid(scale * logit(p) + offset).

    Source: J. Platt, "Probabilistic outputs for support vector machines", 1999.
    """

    scale: float = 1.0
    offset: float = 0.0
    samples: int = 0  # number of judgements that it was fitted to; 0 if it changes nothing

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf and math.isfinite(self.offset)):
            raise CheckpointError(
                f"{CALIBRATION}: scale is {self.scale} and offset {self.offset}, they must be finite, and scale above "
                "0; fit them again with penguin-vl evaluate watch --fit, or delete the file"
            )

    @classmethod
    def of(cls, processor: Processor) -> Calibration:
        """Returns the calibration in a checkpoint's folder, or one that changes nothing if there is none.

        Raises:
            CheckpointError: The file is damaged.
        """
        content = processor.side_files.get(CALIBRATION)
        if content is None:
            return cls()
        try:
            values = json.loads(content)
            return cls(float(values["scale"]), float(values["offset"]), int(values["samples"]))
        except (ValueError, KeyError, TypeError, OverflowError) as err:
            if isinstance(err, CheckpointError):
                raise
            raise CheckpointError(
                f"{CALIBRATION} is damaged ({type(err).__name__}: {err}); fit it again with penguin-vl evaluate watch "
                "--fit, or delete the file"
            ) from err

    def to_json(self) -> str:
        """Returns the content of the file."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def apply(self, probability: float) -> float:
        """Returns the calibrated probability."""
        value = self.scale * logit(probability) + self.offset
        return 1 / (1 + math.exp(-value)) if value > 0 else math.exp(value) / (1 + math.exp(value))


def logit(probability: float) -> float:
    """Returns log(p / (1 - p)), for p limited to 1e-7 from 0 and 1."""
    limited = min(max(probability, _LEAST), 1 - _LEAST)
    return math.log(limited / (1 - limited))


def holds_probability(processor: Processor, logits: Float32Array, calibration: Calibration) -> float:
    """Returns the calibrated probability that a condition holds, from logits float32 [vocab] after its prompt."""
    return calibration.apply(yes_probability(processor, logits))

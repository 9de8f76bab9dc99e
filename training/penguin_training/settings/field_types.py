"""Field types of the settings: pydantic checks their limits, and takes neither strings nor booleans for numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

CONFIG = ConfigDict(extra="forbid")

PositiveInt = Annotated[int, Field(strict=True, ge=1)]
NonNegativeInt = Annotated[int, Field(strict=True, ge=0)]
PositiveFloat = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
FractionBelowOne = Annotated[float, Field(strict=True, ge=0, lt=1)]
Name = Annotated[str, Field(min_length=1)]

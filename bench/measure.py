"""One measured path."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Measure:
    """``value`` and ``reference_value`` share ``unit``; ``target`` is the ratio that we want."""

    name: str
    measure: str
    value: float
    unit: str
    reference: str
    reference_value: float
    target: float
    better: Literal["higher", "lower"]

    @property
    def ratio(self) -> float:
        return self.value / self.reference_value

    def row(self, machine: str) -> dict[str, object]:
        """The measure as a line of ``latest.json``."""
        return {
            "name": self.name,
            "measure": self.measure,
            "value": self.value,
            "unit": self.unit,
            "reference": self.reference,
            "reference_value": self.reference_value,
            "ratio": self.ratio,
            "target": self.target,
            "better": self.better,
            "machine": machine,
        }

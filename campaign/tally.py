"""How often a kind of harm was tried, and how often the program held; what fails is told with what repeats it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

TOLD: Final = 30
"""Failures of one kind that are printed."""


@dataclass
class Tally:
    """The attempts of one kind."""

    what: str
    tried: int = 0
    held: int = 0

    def count(self, fault: str = "", attempt: str = "") -> None:
        """Counts an attempt.

        Args:
            fault: what went wrong; "" where it held.
            attempt: what was done, with all that repeats it.
        """
        self.tried += 1
        self.held += not fault
        failed = self.tried - self.held
        if fault and failed == TOLD + 1:
            print(f"FAILED {self.what}: and more, which are counted", flush=True)
        elif fault and failed <= TOLD:
            print(f"FAILED {self.what}: {attempt}: {fault}", flush=True)

    @property
    def row(self) -> dict[str, str]:
        """The row of the table."""
        numbers = {"tried": self.tried, "held": self.held, "failed": self.tried - self.held}
        return {"what": self.what, **{name: str(value) for name, value in numbers.items()}}


@dataclass(frozen=True)
class Plan:
    """How a campaign is run."""

    scratch: Path  # a folder for everything that it makes
    out: Path  # the table; others lie beside it
    seed: int = 0
    share: float = 1.0  # of the attempts, 0 to 1

    def times(self, whole: int) -> int:
        """The share of `whole` attempts, one at least."""
        return max(1, round(whole * self.share))

    def random(self, what: str, number: int = 0) -> np.random.Generator:
        """The numbers of one attempt, the same whichever others are made."""
        return np.random.default_rng([self.seed, zlib.crc32(what.encode()), number])

    def folder(self, name: str) -> Path:
        """A new folder below the scratch folder."""
        made = self.scratch / name
        made.mkdir(parents=True)
        return made

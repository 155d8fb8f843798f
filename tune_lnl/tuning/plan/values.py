"""The values of a search's options: how each is read from a text."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from tune_lnl.errors import InputError

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?B)", re.IGNORECASE | re.ASCII)
SIZE_UNITS = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
CONFIRM = re.compile(r"(\d{1,9})x(\d{1,9})", re.ASCII)
DIGITS = re.compile(r"\d+", re.ASCII)
MOST_COUNT = 10**9
"""Of trials, epochs and trials at once; larger numbers overflow where the cost of a search is computed."""
MOST_NAME = 255
"""Characters in the name of a folder."""
MOST_SEED = 2**31 - 1
"""The seeds of trainings and samplers have 32 bits."""
NUMBER = re.compile(r"[-+]?(?:[0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})(?:[eE][-+]?[0-9]{1,2})?")
"""A decimal number in ASCII digits: ``float`` also takes other scripts, underscores, inf and nan."""


@dataclass(frozen=True)
class TrialCount:
    """A number of trials: the total, or how many to add to a resumed run."""

    number: int
    added: bool = False

    def __str__(self) -> str:
        return f"+{self.number}" if self.added else str(self.number)


@dataclass(frozen=True)
class ConfirmRequest:
    """The top ``top`` configs on ``replicates`` fresh replicates each."""

    top: int
    replicates: int

    @property
    def trainings(self) -> int:
        """Return the number of full trainings: each replicate of each config, and the winner on all the data."""
        return self.top * self.replicates + 1

    def __str__(self) -> str:
        return f"{self.top}x{self.replicates}"


def read_trials(text: str, word: str = "--trials") -> TrialCount:
    """Read ``64`` (the total) or ``+16`` (that many more).

    Raises:
        InputError: any other form, or zero.
    """
    added = text.startswith("+")
    return TrialCount(read_count(text[added:], f"{word} +N" if added else word), added)


def read_confirm(text: str, word: str = "--confirm") -> ConfirmRequest | Literal["none"]:
    """Read ``3x5`` or ``none``.

    Raises:
        InputError: another form, no config, or fewer than two replicates.
    """
    if text.strip() == "none":
        return "none"
    found = CONFIRM.fullmatch(text.strip())
    if found is None:
        raise InputError(f"{word} is KxS, the top K trials on S fresh replicates, such as 3x5, or none; got {text!r}")
    top, replicates = int(found[1]), int(found[2])
    if top < 1:
        raise InputError(f"{word} KxS needs at least one trial to confirm, got K = {top}; 3x5 is usual")
    if replicates < 2:
        raise InputError(
            f"{word} KxS needs at least two replicates for a deviation, got S = {replicates}; 3x5 is usual"
        )
    return ConfirmRequest(top, replicates)


def read_seconds(text: str, word: str = "--time-budget") -> float:
    """Read ``2h``, ``90m``, ``1h30m`` or ``45s`` as seconds.

    Raises:
        InputError: any other form, or zero.
    """
    match = DURATION.fullmatch(text.strip())
    parts = [float(part) if part else 0.0 for part in match.groups()] if match else [0.0]
    seconds = sum(part * unit for part, unit in zip(parts, (3600.0, 60.0, 1.0), strict=False))
    if not 0 < seconds < math.inf:
        raise InputError(f"{word} is a duration such as 2h, 90m or 1h30m, got {text!r}")
    return seconds


def read_bytes(text: str, word: str = "--disk-budget") -> int:
    """Read ``20GB`` or ``500MB`` as bytes (powers of ten).

    Raises:
        InputError: any other form, or zero.
    """
    match = SIZE.fullmatch(text.strip())
    size = float(match[1]) * SIZE_UNITS[match[2].upper()] if match else 0.0
    if not 1 <= size < math.inf:
        raise InputError(f"{word} is a size such as 20GB or 500MB, got {text!r}")
    return int(size)


def read_run_name(text: str, word: str = "--name") -> str:
    """Read the name of a run, which is also the name of a folder.

    Raises:
        InputError: a name that could leave its folder, would be hidden there, or is too long.
    """
    if not RUN_NAME.fullmatch(text):
        raise InputError(
            f"{word} is made of letters, digits, '.', '_' and '-' and begins with a letter or digit, got {text!r}"
        )
    if len(text) > MOST_NAME:
        raise InputError(f"{word} has at most {MOST_NAME} characters, got {len(text)}; give a shorter one")
    return text


def read_count(text: str, word: str) -> int:
    """Read a whole number from 1 to :data:`MOST_COUNT`.

    Raises:
        InputError: any other text.
    """
    digits = text.lstrip("0")
    if not DIGITS.fullmatch(digits):
        raise InputError(f"{word} is a whole number of at least 1, got {text!r}")
    # By its length first: Python refuses to convert thousands of digits.
    if len(digits) > len(str(MOST_COUNT)) or int(digits) > MOST_COUNT:
        raise InputError(f"{word} is at most {MOST_COUNT}, got a number of {len(digits)} digits; give a smaller one")
    return int(digits)


def read_seed(text: str, word: str = "--seed") -> int:
    """Read a seed, from 0 to :data:`MOST_SEED`.

    Raises:
        InputError: any other text.
    """
    if not DIGITS.fullmatch(text) or len(text) > len(str(MOST_SEED)) or int(text) > MOST_SEED:
        raise InputError(f"{word} is a whole number from 0 to {MOST_SEED}, got {text}")
    return int(text)


def read_gpu_share(text: str, word: str) -> float | str:
    """Read ``auto`` or a number; whether that number tiles a GPU is checked with the machine."""
    if text == "auto":
        return text
    if not NUMBER.fullmatch(text) or not 0 < float(text) < math.inf:
        raise InputError(f"{word} is auto, 1 or 1/k, got {text!r}")
    return float(text)


def read_cpu_share(text: str, word: str) -> float:
    """Read a number of cores; whether there are that many is checked with the machine."""
    if not NUMBER.fullmatch(text) or not 0 < float(text) < math.inf:
        raise InputError(f"{word} is a number of cores, got {text!r}")
    return float(text)

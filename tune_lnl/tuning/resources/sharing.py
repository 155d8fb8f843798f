"""The decision how many trials share one device, from the readings of ``measure.py``. Pure arithmetic.

A GPU that trains one small network is mostly idle; too many trials at once wait for each other and run out of memory.
The readings are of 1, 2, 4, ... trials at once; the smallest number wins that is nearly as fast in total as the best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tune_lnl.config.trial import TrialConfig
from tune_lnl.errors import InputError
from tune_lnl.tuning.space.ranges import Choice
from tune_lnl.tuning.space.space import SearchSpace

MARGIN = 0.1
"""A trial may need this share more than its measured peak: other batches, other algorithms of the same library."""
NEARLY = 0.9
"""Share of the best total speed that is good enough: fewer trials at once end sooner and are compared sooner."""
BATCH_SIZE = "batch_size"


@dataclass(frozen=True)
class Gpu:
    """One CUDA device of this machine, bytes."""

    index: int
    name: str
    total: int
    free: int


@dataclass(frozen=True)
class Reading:
    """The speed and memory of some trials that ran at once on one device."""

    trials: int
    images_per_second: float
    """Of all together."""
    peak: int
    """Most bytes that one training took: networks, optimizers, views, activations."""
    overhead: int
    """Bytes of its process in addition: on a GPU the CUDA context, on a CPU Python and its libraries."""


@dataclass(frozen=True)
class Sharing:
    """How many trials share a device, and why."""

    trials: int
    readings: Sequence[Reading]
    device: str
    """Its name."""
    total: int
    """Bytes of the device."""
    room: int
    """Bytes of it that were free."""
    on_gpu: bool
    quiet: bool = True
    """Whether the device was otherwise unused during the measurement."""

    @property
    def need(self) -> int:
        return need_of(self.readings)

    @property
    def memory_fraction(self) -> float | None:
        """Return the part of a GPU that a trial's allocator may take; ``None``: no limit, or no GPU.

        It is the trial's share less the CUDA context, which the allocator does not count.
        """
        if not self.on_gpu or self.trials == 1:
            return None
        return 1 / self.trials - max(reading.overhead for reading in self.readings) / self.total

    def lines(self) -> list[str]:
        """Return the arithmetic of the decision, for the user."""
        peak, overhead = _most(self.readings)
        kind = "of CUDA context" if self.on_gpu else "of Python and libraries"
        speeds = ", ".join(f"{reading.trials}: {reading.images_per_second:.0f}" for reading in self.readings)
        share = f"1/{self.trials} GPU" if self.on_gpu else f"1/{self.trials} of the CPUs"
        fitting = max(1, self.room // self.need)
        cap = "" if self.memory_fraction is None else f", at most {_gb(self.memory_fraction * self.total)} for training"
        return [
            f"measured on {self.device}: a trial peaks at {_gb(peak)} + {_gb(overhead)} {kind}, "
            f"{_gb(self.need)} with a margin of {MARGIN:.0%}: {fitting} fit into {_gb(self.room)}",
            f"images/s by trials at once: {speeds}; {self.trials} is the fewest within a tenth of the best: "
            f"each gets {share}{cap}",
            *([] if self.quiet else ["others used the device meanwhile, so the next search measures again"]),
        ]


def smallest(gpus: Sequence[Gpu]) -> Gpu:
    """Return the GPU that the share is measured on: the same share is used on all of them, so the smallest decides."""
    return min(gpus, key=lambda gpu: (gpu.total, gpu.free, gpu.index))


def need_of(readings: Sequence[Reading]) -> int:
    """Return the bytes that one trial needs, with its margin."""
    return round(sum(_most(readings)) * (1 + MARGIN))


def _most(readings: Sequence[Reading]) -> tuple[int, int]:
    return max(reading.peak for reading in readings), max(reading.overhead for reading in readings)


def levels(most: int) -> list[int]:
    """Return the numbers of trials to measure: 1, 2, 4, ... up to ``most``."""
    return [2**exponent for exponent in range(max(1, most).bit_length())]


def most_at_once(cpus: int, cpus_per_trial: float | None, wanted: int) -> int:
    """Return the most trials on one device that its CPUs can feed and that the search needs.

    Args:
        cpus: cores for this device.
        cpus_per_trial: as asked for; ``None``: at least one core each.
        wanted: most trials that will run at once on this device.
    """
    fed = int(cpus / (cpus_per_trial or 1.0) + 1e-9)
    # Three trials need quarters: with halves one of them waits for the length of a trial.
    useful = 1 << (max(1, wanted) - 1).bit_length()
    return max(1, min(fed, useful))


def take_readings(read: Callable[[int], Reading | None], most: int, room: int) -> list[Reading]:
    """Measure 1, 2, 4, ... trials at once for as long as they fit and are faster together than fewer.

    Args:
        read: measures a number of trials at once; ``None`` where they ran out of memory.
        most: largest number of trials.
        room: free bytes of the device.

    Returns:
        the readings, at least one.

    Raises:
        InputError: not even one fits.
    """
    readings: list[Reading] = []
    for trials in levels(most):
        if readings and trials * need_of(readings) > room:
            break
        reading = read(trials)
        if reading is None:
            break
        best = max((earlier.images_per_second for earlier in readings), default=0.0)
        readings.append(reading)
        if reading.images_per_second <= best:
            break
    if not readings:
        raise InputError(
            f"--gpus-per-trial auto: one trial runs out of the {_gb(room)} that are free; "
            "lower the largest batch_size of the space, or free the memory"
        )
    return readings


def choose_sharing(readings: Sequence[Reading], device: str, total: int, room: int, on_gpu: bool) -> Sharing:
    """Choose the fewest trials at once within a tenth of the best total speed, among those that fit with a margin.

    One trial has run, so it fits.

    Args:
        readings: of one device, that of one trial among them.
        device: its name.
        total: its bytes of memory.
        room: bytes of them that are free.
        on_gpu: whether it is a GPU.
    """
    need = need_of(readings)
    fitting = [reading for reading in readings if reading.trials == 1 or reading.trials * need <= room]
    best = max(reading.images_per_second for reading in fitting)
    chosen = min(reading.trials for reading in fitting if reading.images_per_second >= NEARLY * best)
    return Sharing(chosen, tuple(readings), device, total, room, on_gpu)


def heavy_configs(space: SearchSpace) -> Iterator[TrialConfig]:
    """Yield the candidates for the trial that takes most memory: the largest batch, with each choice by name.

    Other numbers (learning rates, thresholds, lengths) do not change the memory of a step.
    """
    base = {name: parameter.extremes()[0] for name, parameter in space.parameters.items()}
    if BATCH_SIZE in space.parameters:
        base[BATCH_SIZE] = max(space.parameters[BATCH_SIZE].extremes())
    yield space.config(base)
    for name, parameter in space.parameters.items():
        if isinstance(parameter, Choice) and name != BATCH_SIZE:
            for value in parameter.choices[1:]:
                try:
                    yield space.config({**base, name: value})
                except InputError:
                    continue  # not a trial that the search could make


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"

"""A training step on buffers that stay where they are, as a CUDA graph of it needs them.

:class:`StaticStep` feeds a training's own step from such buffers; ``gpu_visit.py`` captures it on a GPU.
:func:`compared` shows without a GPU that it can be captured: two steps in a row ask for the same operations on the same
addresses, with the same numbers in between, so that a replay of the first is the second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from device_trace import Pretended, Trace, is_view, where
from torch import Tensor
from torch.utils._pytree import tree_flatten

from tune_lnl.training.networks import NetworkTraining, Part, Stretch

AnyTraining = NetworkTraining[Any, Any, Any, Any]


class HeldViews(Stretch):
    """The views of one batch, in buffers that :meth:`take` fills with those of another batch."""

    def __init__(self, training: AnyTraining, batch: Any) -> None:
        super().__init__(batch.images.stretch.images, [len(batch.labels)])
        self._training = training
        self._source = batch
        self._buffers: dict[str, Tensor] = {}

    def view(self, name: str, number: int, draw: Any, apply: Any) -> Tensor:
        if name not in self._buffers:
            self._buffers[name] = self._made(name, self._source).clone()
        return self._buffers[name]

    def take(self, batch: Any) -> None:
        self._source = batch
        for name, buffer in self._buffers.items():
            buffer.copy_(self._made(name, batch))

    def _made(self, name: str, batch: Any) -> Tensor:
        own = getattr(self._training, f"{name}_view", None)
        return self._training.view(batch) if own is None else own(batch.images)  # type: ignore[attr-defined, no-any-return]


class StaticStep:
    """The step of a training for batches of one size in one phase; the first batch is trained on at once.

    Args:
        training: on a device that keeps its images.
        batch: the first one, of an epoch that has begun.
    """

    def __init__(self, training: AnyTraining, batch: Any, epoch: int) -> None:
        self._training = training
        self._epoch = epoch
        self._views = HeldViews(training, batch)
        self.batch = replace(batch, index=batch.index.clone(), labels=batch.labels.clone(), images=Part(self._views, 0))
        for optimizer in training.optimizers.values():
            for group in optimizer.param_groups:
                if "capturable" in group:
                    group["capturable"] = True
        self.run()

    def load(self, batch: Any) -> None:
        """Copy a batch into the buffers."""
        self.batch.index.copy_(batch.index)
        self.batch.labels.copy_(batch.labels)
        self._views.take(batch)

    def run(self) -> None:
        """Train on what the buffers hold."""
        self._training.train_step(self.batch, self._epoch, self._training.totals)
        self._training.totals.flush()


class Recording:
    """The operations between two points, by what they read: a name of its own for each tensor made meanwhile, the
    address of any other, and plain numbers by value."""

    def __init__(self) -> None:
        self.operations: list[tuple[str, tuple[Any, ...], str]] = []
        self._made: dict[int, int] = {}
        self._known: set[int] = set()
        self._alive: list[Any] = []
        """So that no address comes twice."""

    def note(self, func: Any, args: Any, kwargs: dict[str, Any], found: Any) -> None:
        name = func._schema.name
        read = tuple(self._named(each) for each in tree_flatten((args, kwargs))[0])
        self.operations.append((name, read, where()))
        if is_view(func):
            return
        for each in tree_flatten(found)[0]:
            if isinstance(each, Tensor):
                place = each.untyped_storage().data_ptr()
                if place not in self._known:
                    self._made.setdefault(place, len(self._made))
        self._alive.append(found)

    def _named(self, each: Any) -> Any:
        if not isinstance(each, Tensor):
            return repr(each)
        form = (each.storage_offset(), tuple(each.shape), each.stride(), each.dtype)
        if not isinstance(each, Pretended):
            return ("number", each.item()) if each.dim() == 0 else ("of the host", *form)
        place = each.held.untyped_storage().data_ptr()
        if place in self._made:
            return ("made", self._made[place], *form)
        self._known.add(place)
        return ("kept", place, *form)


@contextmanager
def recorded(counted: Trace) -> Iterator[Recording]:
    """Record what runs on the pretended device."""
    recording = Recording()
    counted.watch = recording.note
    try:
        yield recording
    finally:
        counted.watch = None


def compared(training: AnyTraining, epochs: tuple[int, int], counted: Trace) -> dict[str, Any]:
    """Compare two steps on pretended tensors, in one epoch or in two of one phase.

    Returns:
        ``operations`` of a step, their ``names``, and ``difference``: the first operation that differs, by its line, or
        that reads from the host or is a move; ``None``: a graph of the first step is the second.
    """
    first, second = epochs
    training._begin_epoch(first)
    batches = training.batches(first)
    step = StaticStep(training, next(batches), first)
    step.load(next(batches))
    step.run()
    found = []
    for epoch in (first, second):
        if epoch != first:
            training._begin_epoch(epoch)
            batches = training.batches(epoch)
            step._epoch = epoch
        step.load(next(batches))
        with recorded(counted) as recording:
            step.run()
        found.append(recording)
    one, other = (each.operations for each in found)
    difference = next(
        (
            f"{a[0]} at {a[2]}"
            for a, b in zip(one, other, strict=False)
            if a[:2] != b[:2] or any(isinstance(read, tuple) and read[0] == "of the host" for read in a[1])
        ),
        None if len(one) == len(other) else f"{len(one)} operations, then {len(other)}",
    )
    return {"operations": len(one), "names": sorted({each[0] for each in one}), "difference": difference}

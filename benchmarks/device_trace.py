"""Host waits, kernel launches and device mixes of a real training step, counted without a GPU.

    python benchmarks/device_trace.py METHOD DATASET [--data-dir DIR] [--set KEY=VALUE]... [--json FILE]

A training runs on tensors that claim to be on ``cuda:0`` while their values lie on the CPU: every operation is that of
the method's own code and gives real numbers, and each one is counted with the line of this library that asked for it.

``waits``     the host waits for the device: values read back, blocking copies, shapes that depend on values
``launches``  kernels and copies, estimated: operations that are no views, with more than one for some (:data:`KERNELS`)
``mixes``     operations on tensors of both devices, which a GPU refuses; counted here, not raised
``float64``   launches in double precision, 1/64 as fast as single on many cards
``lines``     launches by line

All are per step, in float32. The images of several steps are augmented together on a GPU: these launches are divided
by the steps that share them in an epoch of the whole dataset. On a real card cuDNN chooses other kernels, so the count
is an estimate; what it is for is to see a change that adds waits or launches.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.utils._foreach_utils
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

import tune_lnl
from tune_lnl.cli import Parser, guarded
from tune_lnl.config.overrides import parse_overrides
from tune_lnl.config.trial import TrialConfig
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.networks import NetworkTraining, Stretch
from tune_lnl.training.registry import start_training
from tune_lnl.training.seeds import resolve_config

LIBRARY = str(Path(tune_lnl.__file__).parent)
DEVICE = torch.device("cuda", 0)
KERNELS = {
    "convolution_backward": 3.5,
    "native_batch_norm": 1.5,
    "native_batch_norm_backward": 1.5,
    "_native_batch_norm_legit": 1.5,
    "bincount": 6.0,
}
"""Kernels of one call, where it is more than one."""
FREE = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias", "lift_fresh"),
    *("_unsafe_view", "_reshape_alias", "resize_", "set_", "is_pinned"),
}
"""Calls that launch nothing, besides views."""
READS = {"_local_scalar_dense": 1, "bincount": 2, "nonzero": 1, "masked_select": 1, "equal": 1, "_unique2": 1}
"""Waits of one call, where its result or its shape is read back."""


class Pretended(torch.Tensor):
    """A tensor that says it is on ``cuda:0``; its values are on the CPU, where torch's C++ code believes it to be."""

    held: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> Pretended:
        made: Pretended = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=torch.device("cpu"),
        )
        made.held = values.detach()
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Pretended({self.held!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise AssertionError(f"{func} outside pretended_device()")


class Moves(TorchFunctionMode):
    """The moves of tensors between the devices, which torch's C++ code would take for no moves."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in (Tensor.to, Tensor.cpu, Tensor.numpy):
            return func(*args, **kwargs)
        tensor = args[0]
        if func is not Tensor.to:
            return self.trace.fetched(tensor) if func is Tensor.cpu else func(*args, **kwargs)
        if len(args) > 1 and isinstance(args[1], Tensor):
            return tensor.to(args[1].device, args[1].dtype)
        target, dtype, non_blocking, layout = torch._C._nn._parse_to(*args[1:], **kwargs)
        rest: dict[str, Any] = {"dtype": dtype or tensor.dtype}
        if layout is not None:
            rest["memory_format"] = layout
        if isinstance(tensor, Pretended):
            if target is not None and target.type == "cpu":
                tensor = self.trace.fetched(tensor, non_blocking)
            return func(tensor, **rest)
        if target is None or target.type == "cpu":
            return func(*args, **kwargs)
        return self.trace.sent(func(tensor.detach(), **rest), non_blocking).requires_grad_(tensor.requires_grad)


@dataclass
class Counts:
    """What was counted, by line of the library; ``shared*`` for all batches of a stretch together, else in a step."""

    waits: Counter[str] = field(default_factory=Counter)
    launches: Counter[str] = field(default_factory=Counter)
    mixes: Counter[str] = field(default_factory=Counter)
    float64: Counter[str] = field(default_factory=Counter)
    shared_waits: Counter[str] = field(default_factory=Counter)
    shared: Counter[str] = field(default_factory=Counter)
    shared_mixes: Counter[str] = field(default_factory=Counter)
    shared_float64: Counter[str] = field(default_factory=Counter)

    def add(self, waits: float = 0, launches: float = 0, mixes: float = 0, float64: float = 0) -> None:
        """Count for the line of the library that is running now."""
        line, together = where(), for_a_stretch()
        for own, shared, count in (
            (self.waits, self.shared_waits, waits),
            (self.launches, self.shared, launches),
            (self.mixes, self.shared_mixes, mixes),
            (self.float64, self.shared_float64, float64),
        ):
            if count:
                (shared if together else own)[line] += count  # type: ignore[assignment]


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs every operation of pretended tensors on their values, and counts it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = Counts()
        self.watch: Callable[[Any, Any, dict[str, Any], Any], None] | None = None
        """Called with every operation of the device, its arguments and its result."""

    def taken(self) -> Counts:
        """Return the counts since the last call."""
        counts, self.counts = self.counts, Counts()
        return counts

    def sent(self, values: Tensor, non_blocking: bool) -> Tensor:
        """Return a tensor on the pretended device with values of the CPU."""
        self._copied(non_blocking)
        return Pretended(values)

    def fetched(self, tensor: Tensor, non_blocking: bool = False) -> Tensor:
        """Return a tensor's values on the CPU."""
        if not isinstance(tensor, Pretended):
            return tensor
        self._copied(non_blocking)
        return tensor.held.clone()

    def _copied(self, non_blocking: bool) -> None:
        self.counts.add(waits=not non_blocking, launches=1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        flat = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
        pretended = any(isinstance(each, Pretended) for each in flat)
        target = kwargs.get("device")
        to_gpu = target is not None and torch.device(target).type == "cuda"
        if not pretended and not to_gpu:
            return func(*args, **kwargs)
        if to_gpu:
            kwargs["device"] = torch.device("cpu")
        found = func(*tree_map(_values, args), **tree_map(_values, kwargs))
        name = func._schema.name.removeprefix("aten::")
        self._count(name, func, args, kwargs, flat, found)
        if self.watch is not None:
            self.watch(func, args, kwargs, found)
        return self._wrapped(func, args, kwargs, found)

    def _count(self, name: str, func: Any, args: Any, kwargs: dict[str, Any], flat: list[Tensor], found: Any) -> None:
        waits, mixes = READS.get(name, 0), 0
        if name == "_to_copy" and not isinstance(args[0], Pretended):
            waits = int(not kwargs.get("non_blocking", False))
        elif len({isinstance(each, Pretended) for each in flat if each.dim()}) == 2:
            if name == "copy_":
                waits = int(not (kwargs.get("non_blocking", False) or (len(args) > 2 and args[2])))
            else:
                mixes = 1
        if name in ("index", "index_put_", "index_put"):
            waits += sum(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1])
        kernels = 0.0 if name in FREE or is_view(func) else KERNELS.get(name, 1.0)
        outputs = [each for each in tree_flatten(found)[0] if isinstance(each, Tensor)]
        double = any(each.dtype == torch.float64 and each.dim() for each in [*flat, *outputs])
        self.counts.add(waits, kernels, mixes, kernels if double else 0)

    def _wrapped(self, func: Any, args: Any, kwargs: dict[str, Any], found: Any) -> Any:
        returns = func._schema.returns
        if any(each.alias_info is not None and each.alias_info.is_write for each in returns):
            # In place: the result is the argument itself.
            written = [
                args[place] if place < len(args) else kwargs[argument.name]
                for place, argument in enumerate(func._schema.arguments)
                if argument.alias_info is not None and argument.alias_info.is_write
            ]
            return written[0] if len(returns) == 1 else tuple(written[: len(returns)])
        if is_view(func) and not args[0].is_inference():
            with torch.inference_mode(False):  # a view of an ordinary tensor is one, too
                return tree_map(_pretended, found)
        return tree_map(_pretended, found)


def _values(each: Any) -> Any:
    return each.held if isinstance(each, Pretended) else each


def _pretended(each: Any) -> Any:
    return Pretended(each) if isinstance(each, Tensor) and not isinstance(each, Pretended) else each


def is_view(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(each.alias_info is not None and not each.alias_info.is_write for each in returns)


def where() -> str:
    """Return ``file.py:line`` of the innermost line of the library that is running now."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(LIBRARY):
            return f"{Path(frame.f_code.co_filename).relative_to(LIBRARY)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


STRETCH = {Stretch.view.__code__, NetworkTraining._stretch.__code__}


def for_a_stretch() -> bool:
    """Return whether the code that is running now works for all batches of a stretch."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code not in STRETCH:
        frame = frame.f_back
    return frame is not None


@contextmanager
def pretended_device() -> Iterator[Trace]:
    """Make ``cuda`` a device that tensors can claim to be on; the trace counts what they do."""
    trace = Trace()

    def synchronize(device: Any = None) -> None:
        trace.counts.add(waits=1)

    with ExitStack() as undo:
        for name, value in {
            "_lazy_init": lambda: None,
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "is_bf16_supported": lambda *_, **__: True,
            "synchronize": synchronize,
            "mem_get_info": lambda device=None: (20 * 10**9, 24 * 10**9),
            "empty_cache": lambda: None,
        }.items():
            undo.enter_context(patch.object(torch.cuda, name, value))
        undo.enter_context(patch.object(torch.Tensor, "pin_memory", lambda tensor, device=None: tensor))
        for module in (torch.utils._foreach_utils, sys.modules[torch.optim.Optimizer.__module__]):
            names = vars(module)
            kinds = [*names["_foreach_supported_types"], Pretended]
            undo.enter_context(patch.dict(names, _foreach_supported_types=kinds))
        # New parameters instead of new values in the old ones, whose class would stay.
        undo.callback(
            torch.__future__.set_overwrite_module_params_on_conversion,
            torch.__future__.get_overwrite_module_params_on_conversion(),
        )
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)
        undo.callback(torch._C._set_only_lift_cpu_tensors, False)
        undo.enter_context(Moves(trace))
        undo.enter_context(trace)
        yield trace


EPOCHS = 4
STEPS = 2
"""Steps that are counted, after the first two, which make what is made once."""
SUBSET = {"cifar": 0.02}
"""Share of a dataset that is enough for these steps, by the start of its name; else all of it."""
SETTINGS: dict[str, dict[str, Any]] = {
    "act": {"lr": 0.01, "lr1": 0.08, "warmup_epochs": 2, "batch_size": 128},
    "core": {"lr": 0.01, "refine_epochs": 2, "batch_size": 32},
    "purifynet": {"lr": 0.01, "reweight_epochs": 2, "batch_size": 32},
    "self_refine": {"lr": 0.01, "batch_size": 32},
    "reid_standard": {"lr": 0.01, "batch_size": 32},
}
PHASES: dict[str, tuple[str, str]] = {
    "act": ("warmup", "robust"),
    "core": ("self_refine", "co_refine"),
    "purifynet": ("refine", "reweight"),
}
"""The names of the first and of the last epoch, of methods that train differently in them."""


def config_of(method: str, dataset: str, overrides: Sequence[str] = ()) -> TrialConfig:
    """Return a short training of the method.

    Raises:
        InputError: they do not fit each other.
    """
    sections: dict[str, Any] = {
        "method": method,
        "dataset": {"name": dataset},
        "objective": {"average_last": 1},
        "fixed": {"epochs": EPOCHS, **SETTINGS.get(method, {"lr": 0.01, "batch_size": 128})},
    }
    for start, share in SUBSET.items():
        if dataset.startswith(start):
            sections["dataset"]["subset"] = share
    return resolve_config(sections, parse_overrides(overrides), None, f"{method} on {dataset}")


def trace(config: TrialConfig, data_dir: Path | None) -> dict[str, Any]:
    """Return the counts of every phase of a training, as ``--json`` writes them.

    Raises:
        InputError: data missing, or settings that do not suit it.
    """
    names = PHASES.get(config.method, ("train",))
    epochs = (0, EPOCHS - 1)[-len(names) :]
    phases = {}
    with pretended_device() as counted:
        training = start_training(config, Surroundings(data_dir=data_dir, device="cuda"))
        assert isinstance(training, NetworkTraining)
        for name, epoch in zip(names, epochs, strict=True):
            phases[name] = phase_of(training, epoch, counted)
    return {"method": config.method, "dataset": config.dataset.name, "phases": phases}


def phase_of(training: NetworkTraining[Any, Any, Any, Any], epoch: int, counted: Trace) -> dict[str, Any]:
    """Return the counts of a step of one epoch."""
    steps = training.steps(epoch)
    counted.taken()
    next(steps)
    first = counted.taken()
    next(steps)
    counted.taken()
    for _ in range(STEPS):
        next(steps)
    own = counted.taken()
    every = math.ceil(training.images_per_epoch() / getattr(training.config.dataset, "subset", 1.0))
    batches = math.ceil(every / training.settings.batch_size)
    share = math.ceil(batches / training.stretch_batches()) / batches if first.shared else 0.0
    lines = Counter({line: count / STEPS for line, count in own.launches.items()})
    lines.update({line: count * share for line, count in first.shared.items()})
    waits, mixes = own.waits + first.shared_waits, own.mixes + first.shared_mixes
    return {
        "waits": math.ceil(sum(own.waits.values()) / STEPS) + sum(first.shared_waits.values()),
        "launches": round(sum(lines.values()), 1),
        "mixes": math.ceil(sum(own.mixes.values()) / STEPS) + sum(first.shared_mixes.values()),
        "float64": round(sum(own.float64.values()) / STEPS + share * sum(first.shared_float64.values()), 1),
        "lines": {line: round(count, 2) for line, count in lines.most_common()},
        "waits_by_line": dict(waits),
        "mixes_by_line": dict(mixes),
        "of_a_stretch": {"launches": sum(first.shared.values()), "batches": training.stretch_batches()},
    }


def parser() -> Parser:
    p = Parser(prog="benchmarks/device_trace.py", description=__doc__)
    p.add_argument("method", metavar="METHOD")
    p.add_argument("dataset", metavar="DATASET")
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="where datasets lie (only read)")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="as in train")
    p.add_argument("--lines", type=int, default=12, metavar="N", help="print the N lines with most launches")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the counts, with every line")
    return p


@guarded
def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    found = trace(config_of(arguments.method, arguments.dataset, arguments.overrides), arguments.data_dir)
    print(f"{'per step':<14}{'waits':>7}{'launches':>10}{'mixes':>7}{'float64':>9}")
    for name, row in found["phases"].items():
        print(f"{name:<14}{row['waits']:>7}{row['launches']:>10.1f}{row['mixes']:>7}{row['float64']:>9.1f}")
    for name, row in found["phases"].items():
        print(f"\n{name}: launches by line")
        for line, count in list(row["lines"].items())[: arguments.lines]:
            print(f"{count:>9.1f}  {line}")
        for line, count in row["waits_by_line"].items():
            print(f"   waits: {count}  {line}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Several ACT trials trained as one batched model, beside the same trials packed on the machine. An experiment.

    python benchmarks/fused_trials.py [--steps 12] [--rounds 4] [--data-dir DIR] [--output FILE]

K trials share their shapes and differ in lr, lr1, tau, seed (weights, data order, augmentation) and selection state.
Fused, their networks are one: ``stacked`` maps one network over stacked weights (``torch.func``), ``grouped`` lays the
images of the trials side by side as channels of grouped convolutions. Loading, augmentation and losses are each trial's
own, by the package's own code; one backward pass and one update serve all. Before anything is timed, the weights after
a few fused steps are compared with those of the trials trained alone.

Timed against it, taking turns: the trials one after another with all threads, and packed as the engine packs them, a
process each with its share of the threads. What counts is the images per second of all trials together. The option is
worth having from 1.3 times packed trials on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from evidence import evidence, write_evidence
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from tune_lnl.config.settings import TrialConfig, build_config
from tune_lnl.methods.act import robust_losses
from tune_lnl.training.act import ActTraining
from tune_lnl.training.classification import Batch
from tune_lnl.training.loop import Surroundings, has_bf16
from tune_lnl.training.networks import Totals
from tune_lnl.training.registry import settings_type, start_training

ROOT = Path(__file__).resolve().parents[1]
WORTH = 1.3
"""Times packed trials from which on the option would be kept."""
ROBUST = 1
"""An epoch after the warm-up."""
SET_UP = 3
"""Steps before anything is timed."""
TOLERANCE = 1e-3
"""Of weights after the compared steps, relative to how far those steps have moved them."""
COMPARED = 3
"""Steps after which fused and separate weights are compared."""
COMPARED_BATCH = 32
COMPARED_RATE = 0.02
"""Of the learning rates, while comparing: at the full ones two float32 runs part by a factor of twenty a step, whatever
made them differ in the last digit."""

Way = Literal["stacked", "grouped"]
WAYS: tuple[Way, ...] = ("stacked", "grouped")
DATA: dict[str, dict[str, Any]] = {
    "cnn7": {"name": "cifar80no", "subset": 0.2},
    "cnn_digits": {"name": "digits8no"},
}
BATCH = {"cnn7": 128, "cnn_digits": 64}


def trial_config(
    model: str, number: int, precision: str, threads: int, batch_size: int, rate: float = 1.0
) -> TrialConfig:
    """Trial ``number`` of a search: all that a search may turn without changing shapes is turned."""
    sections = {
        "method": "act",
        "dataset": DATA[model],
        "objective": {"average_last": 1},
        "fixed": {
            "epochs": 4,
            "warmup_epochs": ROBUST,
            "lr": 0.01 * (1 + number) * rate,
            "lr1": 0.08 / (1 + number) * rate,
            "tau": 0.025 * number,
            "seed": number,
            "batch_size": batch_size,
            "model": model,
            "precision": precision,
            "threads": threads,
        },
    }
    return build_config(sections, settings_type, "fused_trials")


def started(model: str, number: int, precision: str, threads: int, data_dir: Path | None) -> ActTraining:
    config = trial_config(model, number, precision, threads, BATCH[model])
    return training_of(config, data_dir)


def training_of(config: TrialConfig, data_dir: Path | None) -> ActTraining:
    training = start_training(config, Surroundings(data_dir=data_dir))
    assert isinstance(training, ActTraining)
    return training


def full_batches(training: ActTraining) -> Iterator[Batch]:
    """Batches of an endless robust phase, without the smaller last ones, so that every step costs the same."""
    while True:
        training._begin_epoch(ROBUST)
        for batch in training.batches(ROBUST):
            if len(batch.labels) == training.settings.batch_size:
                yield batch


# ---- networks as one


class StackedNetworks:
    """K networks of one shape with their weights stacked: (K, ...) each.

    Args:
        way: how the K forward passes become one.
    """

    def __init__(self, networks: Sequence[nn.Module], way: Way) -> None:
        self.count = len(networks)
        self.parameters, self.buffers = stack_module_state(list(networks))
        self._network = networks[0]
        self._forward = self._stacked if way == "stacked" else self._grouped

    def __call__(self, images: Tensor) -> Tensor:
        """(K, B, C, H, W) -> logits (K, B, classes)."""
        return self._forward(images)

    def write_back(self, networks: Sequence[nn.Module]) -> None:
        """Give every network its own weights again."""
        with torch.no_grad():
            for place, network in enumerate(networks):
                for name, tensor in (*network.named_parameters(), *network.named_buffers()):
                    source = self.parameters if name in self.parameters else self.buffers
                    tensor.copy_(source[name][place])

    def _stacked(self, images: Tensor) -> Tensor:
        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            return cast(Tensor, functional_call(self._network, (parameters, buffers), (x,)))

        return torch.vmap(one)(self.parameters, self.buffers, images)

    def _grouped(self, images: Tensor) -> Tensor:
        count = len(images)
        x = images.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        x = self._through("features", x)
        # (B, K * C, h, w) -> (K, B, features), each trial's in the order of its own flatten(1)
        x = x.reshape(len(x), count, -1).transpose(0, 1)
        return self._through("classifier", x)

    def _through(self, name: str, x: Tensor) -> Tensor:
        part = self._network.get_submodule(name)
        children = list(part.named_children())
        layers = [(f"{name}.{child}", layer) for child, layer in children] if children else [(name, part)]
        for path, layer in layers:
            x = self._layer(path, layer, x)
        return x

    def _layer(self, path: str, layer: nn.Module, x: Tensor) -> Tensor:
        if isinstance(layer, nn.Conv2d):
            weight, bias = self.parameters[f"{path}.weight"].flatten(0, 1), self.parameters[f"{path}.bias"].flatten()
            weight = weight.contiguous(memory_format=torch.channels_last)
            return F.conv2d(x, weight, bias, padding=cast("tuple[int, int]", layer.padding), groups=self.count)
        if isinstance(layer, nn.Linear):
            weight, bias = self.parameters[f"{path}.weight"], self.parameters[f"{path}.bias"]
            return torch.baddbmm(bias.unsqueeze(1).to(x.dtype), x, weight.transpose(1, 2))
        if isinstance(layer, nn.BatchNorm2d):
            return self._normalised(path, layer, x)
        if isinstance(layer, nn.BatchNorm1d):
            count, batch, width = x.shape
            flat = self._normalised(path, layer, x.transpose(0, 1).reshape(batch, count * width))
            return flat.reshape(batch, count, width).transpose(0, 1)
        return cast(Tensor, layer(x))

    def _normalised(self, path: str, layer: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
        """Statistics are per channel, and every trial has channels of its own."""
        mean, variance = (self.buffers[f"{path}.running_{name}"].flatten() for name in ("mean", "var"))
        weight, bias = (self.parameters[f"{path}.{name}"].flatten() for name in ("weight", "bias"))
        assert layer.momentum is not None
        self.buffers[f"{path}.num_batches_tracked"] += 1
        # The running statistics are views of the stacked ones: updated in place.
        return F.batch_norm(x, mean, variance, weight, bias, True, layer.momentum, layer.eps)


class StackedSgd:
    """Nesterov SGD over stacked weights, a learning rate per trial; as ``torch.optim.SGD``.

    Args:
        rates: (K,) learning rates.
    """

    def __init__(self, networks: StackedNetworks, rates: Tensor, momentum: float, weight_decay: float) -> None:
        self._weights = list(networks.parameters.values())
        self._rates = [rates.view(-1, *[1] * (weight.ndim - 1)) for weight in self._weights]
        self._momentum, self._weight_decay = momentum, weight_decay
        self._velocities: list[Tensor] | None = None

    @torch.no_grad()
    def step(self) -> None:
        gradients = [cast(Tensor, weight.grad) for weight in self._weights]
        torch._foreach_add_(gradients, self._weights, alpha=self._weight_decay)
        if self._velocities is None:
            self._velocities = [gradient.clone() for gradient in gradients]
        else:
            torch._foreach_mul_(self._velocities, self._momentum)
            torch._foreach_add_(self._velocities, gradients)
        torch._foreach_add_(gradients, self._velocities, alpha=self._momentum)
        torch._foreach_mul_(gradients, self._rates)
        torch._foreach_sub_(self._weights, gradients)
        for weight in self._weights:
            weight.grad = None


class Computed:
    """In a network's place: hands out, call by call, what has been computed already."""

    def __init__(self, *logits: Tensor) -> None:
        self._logits = iter(logits)

    def __call__(self, images: Tensor) -> Tensor:
        return next(self._logits)


class FusedTrials:
    """The robust phase of several trials, a step of all at once."""

    def __init__(self, trials: Sequence[ActTraining], way: Way) -> None:
        self.trials = trials
        self._batches = [full_batches(trial) for trial in trials]
        self.networks = {
            suffix: StackedNetworks([trial.networks[suffix] for trial in trials], way) for suffix in ("", "_ntm")
        }
        for trial in trials:
            trial._begin_epoch(ROBUST)
        self._updates = [
            StackedSgd(
                networks,
                torch.tensor([trial.optimizers[suffix].param_groups[0]["lr"] for trial in trials]),
                trials[0].act.momentum,
                trials[0].act.weight_decay,
            )
            for suffix, networks in self.networks.items()
        ]

    def step(self) -> None:
        batches = [next(each) for each in self._batches]
        pairs = list(zip(self.trials, batches, strict=True))
        weak = torch.stack([trial.weak_view(batch.images) for trial, batch in pairs])
        strong = torch.stack([trial.strong_view(batch.images) for trial, batch in pairs])
        with self.trials[0].autocast():
            rtm_weak, ntm_weak = self.networks[""](weak), self.networks["_ntm"](weak)
            rtm_strong = self.networks[""](strong)
        losses = []
        for place, (trial, batch) in enumerate(pairs):
            found = robust_losses(
                Computed(rtm_weak[place], rtm_strong[place]),
                Computed(ntm_weak[place]),
                weak[place],
                strong[place],
                batch.labels,
                batch.index,
                trial.state,
                ROBUST,
                trial.losses,
            )
            losses += [found.rtm, found.ntm]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        for update in self._updates:
            update.step()

    def write_back(self) -> None:
        for suffix, networks in self.networks.items():
            networks.write_back([trial.networks[suffix] for trial in self.trials])


def separate_step(training: ActTraining) -> Callable[[], None]:
    """The trial's own next step, as the product trains it."""
    batches, totals = full_batches(training), Totals()
    return lambda: training.train_step(next(batches), ROBUST, totals)


# ---- equal?


def compare(model: str, count: int, way: Way, data_dir: Path | None) -> dict[str, float]:
    """Fused steps against separate ones in float32, from the same start.

    Returns:
        the largest difference of any network's weights over how far the steps have moved them (both as norms), the
        same of the running statistics, and the share of the trials' selection counts that agree.
    """
    configs = [trial_config(model, number, "fp32", 1, COMPARED_BATCH, COMPARED_RATE) for number in range(count)]
    alone, fused = ([training_of(config, data_dir) for config in configs] for _ in range(2))
    begin = [{suffix: _flat(network) for suffix, network in trial.networks.items()} for trial in alone]
    together = FusedTrials(fused, way)
    for _ in range(COMPARED):
        together.step()
    together.write_back()
    for trial in alone:
        step = separate_step(trial)
        for _ in range(COMPARED):
            step()
    apart, same = 0.0, 0
    for before, one, other in zip(begin, alone, fused, strict=True):
        for suffix, start in before.items():
            reached, found = _flat(one.networks[suffix]), _flat(other.networks[suffix])
            apart = max(apart, float((reached - found).norm() / (reached - start).norm()))
        same += int((one.state.counts == other.state.counts).sum())
    return {"largest relative difference": apart, "equal counts": same / sum(len(t.state.counts) for t in alone)}


def _flat(network: nn.Module) -> Tensor:
    values = [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]
    return torch.cat([value.detach().flatten() for value in values]).clone()


# ---- timed


def seconds_of(steps: Sequence[Callable[[], object]], count: int) -> float:
    began = time.perf_counter()
    for step in steps:
        for _ in range(count):
            step()
    return time.perf_counter() - began


def packed_worker(
    link: Connection, model: str, number: int, precision: str, threads: int, data_dir: str | None
) -> None:
    """One packed trial: trains so many steps whenever it is told to, and says when it began and ended."""
    torch.set_num_threads(threads)
    training = started(model, number, precision, threads, None if data_dir is None else Path(data_dir))
    step = separate_step(training)
    seconds_of([step], SET_UP)
    link.send("ready")
    while (steps := link.recv()) is not None:
        began = time.monotonic()
        seconds_of([step], steps)
        link.send((began, time.monotonic()))


class Packed:
    """Trials in processes of their own, each with its share of the threads."""

    def __init__(self, model: str, count: int, precision: str, threads: int, data_dir: Path | None) -> None:
        context = multiprocessing.get_context("spawn")
        share = max(1, threads // count)
        self._links: list[Connection] = []
        self._processes = []
        for number in range(count):
            ours, theirs = context.Pipe()
            place = None if data_dir is None else str(data_dir)
            process = context.Process(target=packed_worker, args=(theirs, model, number, precision, share, place))
            process.start()
            self._links.append(ours)
            self._processes.append(process)
        for link in self._links:
            assert link.recv() == "ready"

    def seconds(self, steps: int) -> float:
        """From the first one's start to the last one's end."""
        for link in self._links:
            link.send(steps)
        spans = [link.recv() for link in self._links]
        return cast(float, max(end for _, end in spans) - min(began for began, _ in spans))

    def close(self) -> None:
        for link, process in zip(self._links, self._processes, strict=True):
            link.send(None)
            process.join()


def measure(
    model: str, count: int, precision: str, threads: int, data_dir: Path | None, steps: int, rounds: int
) -> Any:
    """Images per second of all trials together, of every arm in every round."""
    torch.set_num_threads(threads)
    trials = [started(model, number, precision, threads, data_dir) for number in range(count)]
    alone = [separate_step(trial) for trial in trials]
    fused = {
        way: FusedTrials([started(model, n, precision, threads, data_dir) for n in range(count)], way) for way in WAYS
    }
    packed = Packed(model, count, precision, threads, data_dir)
    arms: dict[str, Callable[[], float]] = {
        "one after another": lambda: seconds_of(alone, steps),
        "packed": lambda: packed.seconds(steps),
        **{f"fused, {way}": partial(seconds_of, [each.step], steps) for way, each in fused.items()},
    }
    try:
        seconds_of(alone, SET_UP)
        for each in fused.values():
            seconds_of([each.step], SET_UP)
        speeds: dict[str, list[float]] = {name: [] for name in arms}
        for turn in range(rounds):
            # The order turns, so that no arm always follows the same one.
            names = list(arms)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                speeds[name].append(count * steps * BATCH[model] / arms[name]())
    finally:
        packed.close()
    ratios = {
        name: [value / base for value, base in zip(values, speeds["packed"], strict=True)]
        for name, values in speeds.items()
    }
    return {
        name: {
            "images/s": round(statistics.median(values), 1),
            "times packed": round(statistics.median(ratios[name]), 3),
            "lowest": round(min(ratios[name]), 3),
            "highest": round(max(ratios[name]), 3),
        }
        for name, values in speeds.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="holds cifar100; TUNE_LNL_DATA where not given")
    parser.add_argument("--models", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--trials", type=int, nargs="+", default=[2, 4], help="how many are fused")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12, help="steps of each trial in each round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "reference" / "fused_trials.json")
    arguments = parser.parse_args()
    equal: dict[str, Any] = {}
    for model in arguments.models:
        for way in WAYS:
            found = compare(model, max(arguments.trials), way, arguments.data_dir)
            equal[f"{model}, {max(arguments.trials)} trials, {way}"] = found
            print(f"{model}, {way}: {found}", flush=True)
            assert found["largest relative difference"] < TOLERANCE, found
    results = []
    for model in arguments.models:
        for precision in ("fp32", *(["bf16"] if has_bf16("cpu") else [])):
            for count in arguments.trials:
                load = round(os.getloadavg()[0], 2)
                more = 8 if model == "cnn_digits" else 1
                arms = measure(
                    model,
                    count,
                    precision,
                    arguments.threads,
                    arguments.data_dir,
                    arguments.steps * more,
                    arguments.rounds,
                )
                results.append(
                    {"model": model, "precision": precision, "trials": count, "load before": load, "arms": arms}
                )
                print(f"{model}, {precision}, {count} trials (load {load})")
                for name, row in arms.items():
                    print(
                        f"  {name:<20}{row['images/s']:>9.1f} images/s{row['times packed']:>8.2f} times packed "
                        f"[{row['lowest']:.2f}, {row['highest']:.2f}]",
                        flush=True,
                    )
    best = max(
        row["times packed"] for each in results for name, row in each["arms"].items() if name.startswith("fused")
    )
    verdict = f"best fused arm: {best:.2f} times packed trials; {'worth' if best >= WORTH else 'below'} {WORTH}"
    print(verdict)
    content = {
        "what": "images per second of all trials together, ACT's robust phase, loading and augmentation included",
        **evidence(("torch",), f"cpu, {platform.machine()}, {arguments.threads} threads"),
        "verdict": verdict,
        f"weights after {COMPARED} steps, fused against alone, fp32": equal,
        "results": results,
    }
    write_evidence(arguments.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())

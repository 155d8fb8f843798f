"""ACT, asymmetric co-training: the losses of one batch and the per-sample state they keep.

Two networks of one architecture are trained side by side. The non-robust one (NTM) always fits every given label; the
robust one (RTM), which is the model that gets reported, fits the samples that the pair selects as clean. Early on the
NTM is the better judge, so samples that it alone gets right are mined for the RTM, until it starts to memorise labels.

Sources: the ACT paper (its text known to us second-hand, its tables and figures first-hand) and the released code,
repository shtdusb/ACT at commit 1411130 (``main.py``, ``main_web.py``, ``main_food101n.py``, ``loss.py``).

Symbols, and the names they have below (B samples in the batch, N in the training set, C classes):

======== ==================== ==================================================================================
``y``    labels               given, possibly wrong labels of the batch (B,)
``z0``   rtm_logits           logits of the RTM on the weak view (B, C); ``p0`` its softmax, ``ŷ0`` its argmax
``z1``   ntm_logits           logits of the NTM on the weak view (B, C); ``ŷ1`` its argmax
``x_s``  x_strong             strongly augmented view of the same images
``e``    epoch                counted from 0, warm-up included
``a0``   (in _mining)         top-1 accuracy of the RTM on this batch against ``y``, in percent; ``a1`` of the NTM
``τ``    config.tau           how far the NTM may be ahead, relative to ``a0``, for mining to stay on
``S``    selected             mask of the selected samples (B,)
``c``    state.counts         how often each sample was trained on as clean (N,)
``w``    (in _weights)        weight of a selected sample, ``c / (e + 1)``
``q``    state.label_ema      running label distribution of each sample (N, C)
``t``    corrected_labels     label that the strong view is trained on (B,)
======== ==================== ==================================================================================

The robust phase, in the step numbers used in the code:

1. a0, a1 = accuracy of each network on the batch.
2. Mining is on iff a0 ≠ 0 and (a1 - a0) / a0 < τ.
3. S = {ŷ0 = y and ŷ1 = y}; mining adds {ŷ0 ≠ y and ŷ1 = y}. Rule "rtm" also takes {ŷ0 = y and ŷ1 ≠ y}, on or off.
4. c += 1 on S, then w = c / (e + 1).
5. q ← 0.8 q + 0.2 p0, for every sample of the batch.
6. t = y on S, else argmax q.
7. L_sel = (1 / |S|) Σ_S w CE(z0, y);  L_CR = mean over the batch of CE(z0(x_s), t).
8. L0 = 0.8 L_sel + 0.2 L_CR;  L1 = mean over the batch of CE(z1, y).

The warm-up: L0 = CE(z0, y) + Σ_k p0_k log p0_k (mean over the batch; a negative entropy, so L0 may be negative),
L1 = CE(z1, y), and c += 1 for every sample of the batch; q stays as it is.

Where this differs from the released code:

- Nothing selected, which always happens at a0 = 0. The released mean over an empty selection is NaN (``main.py`` lines
  170-171), and its log shows NaN; its gradient is 0, so the step equals ours and the weights stay finite. Here L_sel is
  then 0, the consistency term stays, and the batch is flagged.
- Confidence penalty. The released one (``loss.py`` lines 18-21) clamps the logits, not the probabilities, at 1e-12, so
  negative logits count as 0 and get no gradient from it; that is ``penalty="code"``, and the entropy as written in the
  formula is ``penalty="exact"``, the default. Both are computed from log-probabilities here, since the logarithm of a
  probability that underflowed to 0 makes the released one NaN.
- Learning rates. Each network gets its own, which the caller sets. The released ``main.py`` never uses the
  second one (lines 437-438).
- Scripts. The web and food scripts differ from ``main.py``: ``selection_rule="rtm"`` and ``label_smoothing=0.35`` give
  theirs. They run in float16 without scaling the loss; here the networks may run under autocast, while every softmax,
  logarithm and mean is float32.
- One prediction per network, the argmax of its logits, serves accuracy and selection. The released code takes ``topk``
  of the logits for the first and the maximum of the softmax for the second, which can disagree on exact ties.
- Accuracies are formed as the released code does, ``correct * 100.0 / B`` in double precision, so that the strict
  comparison with τ falls the same way on the ties that small batches produce all the time.
- Switches for each module and for the weights 0.2 and 0.8, fixed in the released code, follow the ablation of Table 4.
- The stopping point of mining. The released switch has no memory: it may turn on again in the next batch.
  ``latch_mining`` reads "stopping point" as lasting: from the first batch whose (a1 - a0) / a0 reaches τ, mining stays
  off. A batch with a0 = 0 has no such ratio; it does not mine and does not latch.
- ``q`` starts from the labels directly, without a pass over augmented images; the strong view is not made during the
  warm-up; a copy of the corrected distributions and a weight average that nothing reads are not kept.
- A batch of one is fine for these losses. Batch normalisation after a fully connected layer refuses it, in training, in
  either code: avoid such batches in the loader.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tune_lnl.errors import InputError
from tune_lnl.methods.standard import Network, cross_entropy, in_full_precision

SelectionRule = Literal["agree", "rtm"]
Penalty = Literal["exact", "code", "none"]

SELECTION_RULES: tuple[SelectionRule, ...] = ("agree", "rtm")
PENALTIES: tuple[Penalty, ...] = ("exact", "code", "none")


@dataclass(frozen=True)
class ActConfig:
    """Settings of the losses; the defaults are the paper's.

    Attributes:
        tau: mining stays on while the NTM's batch accuracy is ahead by less than this share of the RTM's; >= 0.
        selection_rule: "agree" (both networks predict the given label; paper and ``main.py``) or "rtm" (the RTM's
            prediction is enough; ``main_web.py`` and ``main_food101n.py``).
        label_smoothing: in every cross-entropy, [0, 1). The web and food scripts use 0.35.
        penalty: confidence penalty of the RTM in the warm-up: "exact", "code" (released code) or "none".
        penalty_weight: factor of that penalty; >= 0.
        consistency_weight: share of the consistency term in the RTM's loss, [0, 1].
        label_ema: share of the old label distribution that an update keeps, [0, 1].
        selection: off trains the RTM on every sample; mining then has nothing to add.
        mining: off never adds the samples that the NTM alone gets right.
        reweighting: off gives every selected sample weight 1; the counts are kept all the same.
        consistency: off leaves the selected cross-entropy as the whole loss, and needs no strong view.
        latch_mining: once the NTM is ahead by tau, mining stays off for the rest of training.

    Raises:
        InputError: a value is outside its range.
    """

    tau: float = 0.025
    selection_rule: SelectionRule = "agree"
    label_smoothing: float = 0.0
    penalty: Penalty = "exact"
    penalty_weight: float = 1.0
    consistency_weight: float = 0.2
    label_ema: float = 0.8
    selection: bool = True
    mining: bool = True
    reweighting: bool = True
    consistency: bool = True
    latch_mining: bool = False

    def __post_init__(self) -> None:
        _require_choice("selection_rule", self.selection_rule, SELECTION_RULES)
        _require_choice("penalty", self.penalty, PENALTIES)
        _require_number("tau", self.tau, "at least 0", lambda v: v >= 0)
        _require_number("penalty_weight", self.penalty_weight, "at least 0", lambda v: v >= 0)
        _require_number("label_smoothing", self.label_smoothing, "at least 0 and below 1", lambda v: 0 <= v < 1)
        _require_number("consistency_weight", self.consistency_weight, "from 0 to 1", lambda v: 0 <= v <= 1)
        _require_number("label_ema", self.label_ema, "from 0 to 1", lambda v: 0 <= v <= 1)
        for name in ("selection", "mining", "reweighting", "consistency", "latch_mining"):
            _require_choice(name, getattr(self, name), (True, False))


@dataclass
class ActState:
    """The per-sample state of ACT; the losses update it in place.

    Attributes:
        counts: how often the sample was trained on as clean, int32 (N,).
        label_ema: running label distribution, float32 (N, C), rows sum to 1.
        mining_stopped: whether ``latch_mining`` has ended the mining, bool ().
    """

    counts: Tensor
    label_ema: Tensor
    mining_stopped: Tensor

    @classmethod
    def start(cls, labels: Tensor, num_classes: int) -> ActState:
        """Return the state before training, on the device of ``labels``: zero counts, one-hot distributions.

        Args:
            labels: given labels of the whole training set, integers (N,) in [0, num_classes).
            num_classes: C.

        Raises:
            ValueError: ``labels`` is not a vector of integers in that range.
        """
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"labels must be a vector of integers, got shape {tuple(labels.shape)} of {labels.dtype}")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise ValueError(
                f"labels must lie in 0..{num_classes - 1}, got {int(labels.min())}..{int(labels.max())}: "
                "pass the number of classes that the labels were drawn from"
            )
        counts = torch.zeros(len(labels), dtype=torch.int32, device=labels.device)
        mining_stopped = torch.zeros((), dtype=torch.bool, device=labels.device)
        one_hot = torch.zeros(len(labels), num_classes, device=labels.device)
        return cls(counts, one_hot.scatter_(1, labels.long().unsqueeze(1), 1.0), mining_stopped)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of this state, shared with it as in ``torch.nn.Module``; ``weights_only`` loads them."""
        return {"counts": self.counts, "label_ema": self.label_ema, "mining_stopped": self.mining_stopped}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Copy a saved state into this one, onto this one's device.

        Raises:
            ValueError: entries are missing or unknown, or belong to another training set or number of classes.
        """
        own = self.state_dict()
        if saved.keys() != own.keys():
            raise ValueError(f"an ACT state has the entries {sorted(own)}, got {sorted(saved)}")
        for name, tensor in own.items():
            if saved[name].shape != tensor.shape or saved[name].dtype != tensor.dtype:
                raise ValueError(
                    f"{name} must be {tensor.dtype} of shape {tuple(tensor.shape)}, got {saved[name].dtype} of shape "
                    f"{tuple(saved[name].shape)}: was it saved with other data?"
                )
        for name, tensor in own.items():
            tensor.copy_(saved[name])


@dataclass(frozen=True)
class ActLosses:
    """The losses of one batch.

    Attributes:
        rtm: scalar loss of the robust network; call ``backward()`` on it.
        ntm: scalar loss of the non-robust network; independent of ``rtm``.
        rtm_logits: detached logits of the RTM on the weak view, (B, C).
        ntm_logits: detached logits of the NTM on the weak view, (B, C).
    """

    rtm: Tensor
    ntm: Tensor
    rtm_logits: Tensor
    ntm_logits: Tensor


@dataclass(frozen=True)
class RobustLosses(ActLosses):
    """The losses of one batch of the robust phase, and what was selected; all tensors stay on the device.

    Attributes:
        selected: which samples the RTM trained on as clean, bool (B,); mined ones included.
        mined: which of them mining added (RTM wrong, NTM right), bool (B,).
        mining: whether mining was on for this batch, bool ().
        selection_empty: whether nothing was selected and that term was dropped, bool ().
        corrected_labels: given label where selected, else the argmax of the label distribution, int64 (B,).
    """

    selected: Tensor
    mined: Tensor
    mining: Tensor
    selection_empty: Tensor
    corrected_labels: Tensor


def warmup_losses(
    rtm: Network, ntm: Network, x: Tensor, labels: Tensor, index: Tensor, state: ActState, config: ActConfig
) -> ActLosses:
    """Return the losses of a warm-up batch; add 1 to the counts of its samples.

    Args:
        rtm: robust network, maps ``x`` to logits (B, C).
        ntm: non-robust network, likewise.
        x: weakly augmented batch.
        labels: given labels, int64 (B,).
        index: position of each sample in the training set, int64 (B,), all different.
        state: the per-sample state; only its counts change.
        config: the settings.
    """
    rtm_logits = in_full_precision(rtm(x))
    ntm_logits = in_full_precision(ntm(x))
    state.counts.index_add_(0, index, torch.ones_like(index, dtype=state.counts.dtype))
    return ActLosses(
        rtm=cross_entropy(rtm_logits, labels, config.label_smoothing).mean() + _weighted_penalty(rtm_logits, config),
        ntm=cross_entropy(ntm_logits, labels, config.label_smoothing).mean(),
        rtm_logits=rtm_logits.detach(),
        ntm_logits=ntm_logits.detach(),
    )


def robust_losses(
    rtm: Network,
    ntm: Network,
    x: Tensor,
    x_strong: Tensor | None,
    labels: Tensor,
    index: Tensor,
    state: ActState,
    epoch: int | Tensor,
    config: ActConfig,
) -> RobustLosses:
    """Return the losses of a batch after the warm-up; update counts and label distributions of its samples.

    Finite logits (below 1e30 in size) give finite losses and gradients, whatever is selected. Nothing waits for the
    device. The networks run in the order rtm(x), ntm(x), rtm(x_strong), so batch normalisation of the RTM sees both
    views before the caller steps.

    Args:
        rtm: robust network, maps a batch to logits (B, C).
        ntm: non-robust network, likewise.
        x: weakly augmented batch.
        x_strong: strongly augmented view of the same samples; ``None`` is allowed with ``consistency=False``,
            which does not run it.
        labels: given labels, int64 (B,).
        index: position of each sample in the training set, int64 (B,), all different.
        state: the per-sample state, updated in place.
        epoch: counted from 0 with the warm-up included; an integer tensor () serves a captured graph.
        config: the settings.

    Raises:
        ValueError: the strong view is missing, or the epoch is negative.
    """
    if config.consistency and x_strong is None:
        raise ValueError("x_strong is needed for the consistency term: pass the strong view or set consistency=False")
    if isinstance(epoch, int) and epoch < 0:
        raise ValueError(f"epoch counts from 0, got {epoch}")
    rtm_logits = in_full_precision(rtm(x))
    ntm_logits = in_full_precision(ntm(x))
    strong_logits = rtm(x_strong) if config.consistency and x_strong is not None else None

    with torch.no_grad():
        rtm_right = rtm_logits.argmax(dim=1) == labels
        ntm_right = ntm_logits.argmax(dim=1) == labels
        mining = _mining(rtm_right, ntm_right, state, config)
        mined = ~rtm_right & ntm_right & mining
        selected = _agreed(rtm_right, ntm_right, config) | mined  # step 3
        weights = _weights(selected, index, state, epoch, config)
        corrected_labels = _corrected_labels(rtm_logits, labels, selected, index, state, config)

    loss = _selected_mean(weights * cross_entropy(rtm_logits, labels, config.label_smoothing), selected)  # step 7
    if strong_logits is not None:
        consistency = cross_entropy(strong_logits, corrected_labels, config.label_smoothing).mean()  # step 7
        loss = (1 - config.consistency_weight) * loss + config.consistency_weight * consistency  # step 8
    return RobustLosses(
        rtm=loss,
        ntm=cross_entropy(ntm_logits, labels, config.label_smoothing).mean(),  # step 8
        rtm_logits=rtm_logits.detach(),
        ntm_logits=ntm_logits.detach(),
        selected=selected,
        mined=mined,
        mining=mining,
        selection_empty=~selected.any(),
        corrected_labels=corrected_labels,
    )


def _mining(rtm_right: Tensor, ntm_right: Tensor, state: ActState, config: ActConfig) -> Tensor:
    """Steps 1 and 2: return whether this batch mines, bool (); record the stopping point if it is to last."""
    if not (config.selection and config.mining):
        return torch.zeros((), dtype=torch.bool, device=rtm_right.device)
    batch_size = rtm_right.numel()
    a0, a1 = torch.stack([rtm_right, ntm_right]).sum(dim=1, dtype=torch.float64) * 100.0 / batch_size
    lead = (a1 - a0) / a0  # NaN or infinite at a0 = 0, which the next lines exclude
    mining: Tensor = (a0 != 0) & (lead < config.tau)
    if config.latch_mining:
        state.mining_stopped.logical_or_((a0 != 0) & ~mining)
        mining = mining & ~state.mining_stopped
    return mining


def _agreed(rtm_right: Tensor, ntm_right: Tensor, config: ActConfig) -> Tensor:
    """Step 3 without mining: return the samples taken as clean by the selection rule, bool (B,)."""
    if not config.selection:
        return torch.ones_like(rtm_right)
    return rtm_right if config.selection_rule == "rtm" else rtm_right & ntm_right


def _weights(selected: Tensor, index: Tensor, state: ActState, epoch: int | Tensor, config: ActConfig) -> Tensor:
    """Step 4: count the selected samples, then return the weight of each sample, float32 (B,)."""
    state.counts.index_add_(0, index, selected.to(state.counts.dtype))
    if not config.reweighting:
        return torch.ones(len(index), device=selected.device)
    return state.counts[index].float() / (epoch + 1)


def _corrected_labels(
    rtm_logits: Tensor, labels: Tensor, selected: Tensor, index: Tensor, state: ActState, config: ActConfig
) -> Tensor:
    """Steps 5 and 6: move the label distributions of the batch towards p0; return the corrected labels, (B,)."""
    p0 = rtm_logits.softmax(dim=1).to(state.label_ema.dtype)
    distributions = config.label_ema * state.label_ema[index] + (1 - config.label_ema) * p0
    state.label_ema.index_copy_(0, index, distributions)
    return torch.where(selected, labels, distributions.argmax(dim=1))


def _selected_mean(values: Tensor, selected: Tensor) -> Tensor:
    """Return the mean of the selected values, 0 if there are none; masks keep shapes independent of the data."""
    return torch.where(selected, values, torch.zeros_like(values)).sum() / selected.sum().clamp(min=1)


def _weighted_penalty(logits: Tensor, config: ActConfig) -> Tensor | float:
    if config.penalty == "none":
        return 0.0
    # The released code keeps non-negative logits only; kept under "code" so that its runs can be repeated.
    kept = logits.clamp(min=1e-12) if config.penalty == "code" else logits
    penalty = _negative_entropy(kept)
    return penalty if config.penalty_weight == 1.0 else config.penalty_weight * penalty


def _negative_entropy(logits: Tensor) -> Tensor:
    """Return the mean over the batch of Σ_k p_k log p_k, between -log C and 0."""
    log_p = logits.log_softmax(dim=1)
    return (log_p.exp() * log_p).sum(dim=1).mean()


def _require_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    # `1 in (True, False)` holds in Python; a switch given as 1 is more likely a slip.
    if not any(value == choice and type(value) is type(choice) for choice in allowed):
        raise InputError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def _require_number(name: str, value: object, rule: str, holds: Callable[[float], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not holds(value):
        raise InputError(f"{name} must be a number {rule}, got {value!r}")

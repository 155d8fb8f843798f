"""ACT's losses, gradients and state updates against values worked out by hand or, independently, in float64 numpy.

The networks are tables of free logits, so a gradient of a loss with respect to a network is the gradient with respect
to its logits, for which there are formulas: CE gives softmax - target, an entropy gives p (log p - Σ p log p).
"""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tune_lnl.errors import InputError
from tune_lnl.methods.act import ActConfig, ActState, RobustLosses, robust_losses, warmup_losses

Array = npt.NDArray[np.float64]

WEAK, STRONG = 0.0, 1.0


class LogitTable(nn.Module):
    """A "network" whose logits on the weak and on the strong view of a fixed batch are its parameters."""

    def __init__(self, weak: Any, strong: Any = None) -> None:
        super().__init__()
        self.weak = nn.Parameter(torch.tensor(np.asarray(weak), dtype=torch.float32))
        self.strong = nn.Parameter(torch.tensor(np.asarray(weak if strong is None else strong), dtype=torch.float32))
        self.seen: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        view = float(x[0])
        self.seen.append(view)
        return self.weak if view == WEAK else self.strong


def softmax(z: Array) -> Array:
    shifted = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def targets(labels: Any, classes: int, smoothing: float = 0.0) -> Array:
    return np.asarray((1 - smoothing) * np.eye(classes)[np.asarray(labels)] + smoothing / classes)


def ce(z: Array, target: Array) -> Array:
    return np.asarray(-(target * np.log(softmax(z))).sum(axis=1))


def predicting(classes: list[int], num_classes: int = 3, height: float = 2.0) -> Array:
    """Logits whose argmax are ``classes``, all different from each other so that no gradient is equal by chance."""
    z = np.zeros((len(classes), num_classes))
    z[np.arange(len(classes)), classes] = height + 0.1 * np.arange(len(classes))
    return z


def views(batch: int) -> tuple[Tensor, Tensor]:
    return torch.full((batch,), WEAK), torch.full((batch,), STRONG)


def run_robust(
    rtm: LogitTable,
    ntm: LogitTable,
    labels: list[int],
    config: ActConfig,
    state: ActState | None = None,
    index: list[int] | None = None,
    epoch: int = 0,
) -> RobustLosses:
    """One robust batch, with the backward passes run."""
    given_labels = torch.tensor(labels)
    if state is None:
        state = ActState.start(given_labels, rtm.weak.shape[1])
    weak, strong = views(len(labels))
    where = torch.arange(len(labels)) if index is None else torch.tensor(index)
    losses = robust_losses(
        rtm, ntm, weak, strong if config.consistency else None, given_labels, where, state, epoch, config
    )
    losses.rtm.backward()  # type: ignore[no-untyped-call]
    losses.ntm.backward()  # type: ignore[no-untyped-call]
    return losses


def gradient(parameter: nn.Parameter) -> Array:
    assert parameter.grad is not None
    return np.asarray(parameter.grad.numpy(), dtype=np.float64)


# --- warm-up -------------------------------------------------------------------------------------------------------


def test_warmup_losses_of_one_sample_by_hand() -> None:
    """Logits (log 3, 0): p = (3/4, 1/4), CE of label 1 = log 4, p log p summed = 3/4 log 3/4 + 1/4 log 1/4."""
    rtm, ntm = LogitTable([[math.log(3), 0.0]]), LogitTable([[0.0, 0.0]])
    state = ActState.start(torch.tensor([1]), 2)
    losses = warmup_losses(rtm, ntm, views(1)[0], torch.tensor([1]), torch.tensor([0]), state, ActConfig())
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert losses.rtm.item() == pytest.approx(math.log(4) - entropy, rel=1e-6)
    assert losses.ntm.item() == pytest.approx(math.log(2), rel=1e-6)
    losses.rtm.backward()  # type: ignore[no-untyped-call]
    # CE: p - onehot = (3/4, -3/4). Penalty: p_k (log p_k + H) = 3/4 (log 3/4 + H), and minus that.
    push = 0.75 * (math.log(0.75) + entropy)
    np.testing.assert_allclose(gradient(rtm.weak), [[0.75 + push, -0.75 - push]], rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.35])
@pytest.mark.parametrize("penalty", ["exact", "code", "none"])
def test_warmup_losses_and_gradients(smoothing: float, penalty: Any) -> None:
    rng = np.random.default_rng(0)
    z0, z1, labels, weight = rng.normal(size=(4, 5)), rng.normal(size=(4, 5)), [0, 4, 2, 2], 0.7
    rtm, ntm = LogitTable(z0), LogitTable(z1)
    config = ActConfig(label_smoothing=smoothing, penalty=penalty, penalty_weight=weight)
    state = ActState.start(torch.tensor(labels), 5)
    losses = warmup_losses(rtm, ntm, views(4)[0], torch.tensor(labels), torch.arange(4), state, config)
    losses.rtm.backward()  # type: ignore[no-untyped-call]
    losses.ntm.backward()  # type: ignore[no-untyped-call]

    target = targets(labels, 5, smoothing)
    s = softmax(np.maximum(z0, 1e-12) if penalty == "code" else z0)
    negative_entropy = (s * np.log(s)).sum(axis=1, keepdims=True)
    on = 0.0 if penalty == "none" else weight
    assert losses.rtm.item() == pytest.approx(ce(z0, target).mean() + on * negative_entropy.mean(), rel=1e-5)
    assert losses.ntm.item() == pytest.approx(ce(z1, target).mean(), rel=1e-5)
    reached = z0 > 0 if penalty == "code" else np.ones_like(z0)
    penalty_gradient = s * (np.log(s) - negative_entropy) * reached
    np.testing.assert_allclose(gradient(rtm.weak), (softmax(z0) - target + on * penalty_gradient) / 4, atol=1e-6)
    np.testing.assert_allclose(gradient(ntm.weak), (softmax(z1) - target) / 4, atol=1e-6)


def test_penalty_values_on_normal_logits() -> None:
    """z ~ N(0, 1), many classes: Σ p log p tends to E[v e^v] / E[e^v] - log(C E[e^v]), v = z or, clamped, max(z, 0).

    E[e^z] = E[z e^z] = √e; E[e^v] = 1/2 + √e Φ(1) and E[v e^v] = √e (Φ(1) + φ(1)). At C = 100 about -4.11 and -4.29,
    and with so few classes both lie about 0.015 lower.
    """
    torch.manual_seed(0)
    samples, classes = 10_000, 100
    z, labels, index = torch.randn(samples, classes), torch.zeros(samples, dtype=torch.long), torch.arange(samples)
    state = ActState.start(labels, 1)

    def penalty(kind: Any) -> float:
        with_it, without = (
            warmup_losses(lambda _: z, lambda _: z, z, labels, index, state, ActConfig(penalty=each)).rtm
            for each in (kind, "none")
        )
        return float(with_it - without)

    cdf, density, root_e = (1 + math.erf(1 / math.sqrt(2))) / 2, math.exp(-0.5) / math.sqrt(2 * math.pi), math.exp(0.5)
    assert penalty("exact") == pytest.approx(1 - math.log(classes * root_e), abs=0.03)
    mean, tilted = 0.5 + root_e * cdf, root_e * (cdf + density)
    assert penalty("code") == pytest.approx(tilted / mean - math.log(classes * mean), abs=0.03)


def test_warmup_counts_only_the_batch_and_leaves_the_distributions() -> None:
    labels = torch.tensor([0, 1, 2, 1])
    state = ActState.start(labels, 3)
    before = state.label_ema.clone()
    rtm, ntm = LogitTable(predicting([0, 1])), LogitTable(predicting([2, 2]))
    for _ in range(2):
        losses = warmup_losses(rtm, ntm, views(2)[0], labels[[0, 3]], torch.tensor([0, 3]), state, ActConfig())
    assert state.counts.tolist() == [2, 0, 0, 2]
    assert state.counts.dtype == torch.int32
    assert torch.equal(state.label_ema, before)
    assert not losses.rtm_logits.requires_grad
    assert not losses.ntm_logits.requires_grad
    assert torch.equal(losses.ntm_logits, ntm.weak)


# --- selection and mining --------------------------------------------------------------------------------------------

CELLS = {"both": (True, True), "rtm only": (True, False), "ntm only": (False, True), "neither": (False, False)}


@pytest.mark.parametrize(
    ("rule", "mining", "expected"),
    [
        ("agree", False, {"both"}),
        ("agree", True, {"both", "ntm only"}),
        ("rtm", False, {"both", "rtm only"}),
        ("rtm", True, {"both", "rtm only", "ntm only"}),
    ],
)
def test_selection_in_the_four_cells_of_agreement(rule: Any, mining: bool, expected: set[str]) -> None:
    """Label 0 everywhere; equal accuracies (2 of 4 right), so the lead is 0: below tau 0.025, not below tau 0."""
    labels = [0, 0, 0, 0]
    rtm = LogitTable(predicting([0 if right else 1 for right, _ in CELLS.values()]))
    ntm = LogitTable(predicting([0 if right else 2 for _, right in CELLS.values()]))
    losses = run_robust(rtm, ntm, labels, ActConfig(selection_rule=rule, tau=0.025 if mining else 0.0))
    assert bool(losses.mining) is mining
    assert {cell for cell, chosen in zip(CELLS, losses.selected.tolist(), strict=True) if chosen} == expected
    assert losses.mined.tolist() == [False, False, mining, False]


@pytest.mark.parametrize(("rtm_right", "ntm_right"), [(40, 41), (20, 21), (4, 4), (10, 9), (0, 0), (0, 7), (7, 0)])
@pytest.mark.parametrize("tau", [0.0, 0.025, 0.05])
def test_mining_is_on_strictly_below_tau(rtm_right: int, ntm_right: int, tau: float) -> None:
    """Batches of 100, where accuracies are whole percents: 41 against 40 is a lead of exactly 0.025."""
    rtm, ntm = hits(rtm_right, 100), hits(ntm_right, 100)
    losses = run_robust(rtm, ntm, [0] * 100, ActConfig(tau=tau))
    expected = rtm_right > 0 and (ntm_right - rtm_right) / rtm_right < tau
    assert bool(losses.mining) is expected


def hits(right: int, batch: int) -> LogitTable:
    return LogitTable(predicting([0] * right + [1] * (batch - right)))


def test_mining_decides_ties_as_percent_arithmetic_in_double_precision() -> None:
    """A lead of exactly 1/40: rounding decides, and must do so as ``correct * 100.0 / B`` on Python floats does."""
    decisions = {}
    for batch in range(41, 256, 2):
        for times in range(1, batch // 41 + 1):
            a0, a1 = 40 * times * 100.0 / batch, 41 * times * 100.0 / batch
            expected = (a1 - a0) / a0 < 0.025
            losses = run_robust(hits(40 * times, batch), hits(41 * times, batch), [0] * batch, ActConfig())
            assert bool(losses.mining) is expected, (batch, times)
            decisions[batch, times] = expected
    assert set(decisions.values()) == {True, False}  # else these batches would not tell the arithmetics apart


def test_latched_mining_stays_off_after_the_stopping_point() -> None:
    labels, even, ahead = [0] * 4, hits(2, 4), hits(4, 4)
    state = ActState.start(torch.tensor(labels), 3)
    free = ActState.start(torch.tensor(labels), 3)
    latched = ActConfig(latch_mining=True)

    def mining(ntm: LogitTable, config: ActConfig, on: ActState, rtm: LogitTable = even) -> bool:
        return bool(run_robust(rtm, ntm, labels, config, on).mining)

    assert mining(even, latched, state)
    assert not mining(even, latched, state, rtm=hits(0, 4))  # a0 = 0: off, but no stopping point
    assert mining(even, latched, state)
    assert not mining(ahead, latched, state)
    assert bool(state.mining_stopped)
    assert not mining(even, latched, state)

    assert [mining(ntm, ActConfig(), free) for ntm in (even, ahead, even)] == [True, False, True]
    assert not bool(free.mining_stopped)


# --- losses of the robust phase --------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.35])
@pytest.mark.parametrize("reweighting", [True, False])
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_robust_losses_gradients_and_updates(smoothing: float, reweighting: bool, share: float) -> None:
    """Samples 0, 3, 5 and 2 of a set of six; both nets right on the first and third, NTM alone on the second."""
    index, labels = [0, 3, 5, 2], [1, 0, 2, 2]
    rng = np.random.default_rng(1)
    z0, z1 = predicting([1, 2, 2, 0]), predicting([1, 0, 2, 1], height=1.5)
    zs = rng.normal(size=(4, 3))
    rtm, ntm = LogitTable(z0, zs), LogitTable(z1)
    state = ActState.start(torch.tensor([1, 1, 2, 0, 0, 2]), 3)
    state.counts.copy_(torch.tensor([3, 9, 9, 1, 9, 0]))
    state.label_ema[2] = torch.tensor([0.6, 0.1, 0.3])
    q_before = state.label_ema.numpy().astype(np.float64)
    config = ActConfig(tau=0.6, label_smoothing=smoothing, reweighting=reweighting, consistency_weight=share)
    losses = run_robust(rtm, ntm, labels, config, state, index, epoch=4)

    # a0 = 50, a1 = 75: lead 0.5 < 0.6, so the second sample is mined; the fourth is wrong for both.
    selected = np.array([1.0, 1.0, 1.0, 0.0])
    assert losses.selected.tolist() == [True, True, True, False]
    assert losses.mined.tolist() == [False, True, False, False]
    assert not bool(losses.selection_empty)
    counts = [4, 9, 9, 2, 9, 1]
    assert state.counts.tolist() == counts
    weights = np.array([4 / 5, 2 / 5, 1 / 5, 9 / 5]) if reweighting else np.ones(4)

    q = q_before.copy()
    q[index] = 0.8 * q_before[index] + 0.2 * softmax(z0)
    np.testing.assert_allclose(state.label_ema.numpy(), q, atol=1e-6)
    # The rejected sample: q = 0.8 (0.6, 0.1, 0.3) + 0.2 softmax with its top at 0, so t = 0 and not the given 2.
    assert losses.corrected_labels.tolist() == [1, 0, 2, 0]

    target, corrected = targets(labels, 3, smoothing), targets([1, 0, 2, 0], 3, smoothing)
    l_sel = (selected * weights * ce(z0, target)).sum() / 3
    l_cr = ce(zs, corrected).mean()
    assert losses.rtm.item() == pytest.approx((1 - share) * l_sel + share * l_cr, rel=1e-5)
    assert losses.ntm.item() == pytest.approx(ce(z1, target).mean(), rel=1e-5)
    scale = ((1 - share) * selected * weights / 3)[:, None]
    np.testing.assert_allclose(gradient(rtm.weak), scale * (softmax(z0) - target), atol=1e-6)
    np.testing.assert_allclose(gradient(rtm.strong), share * (softmax(zs) - corrected) / 4, atol=1e-6)
    np.testing.assert_allclose(gradient(ntm.weak), (softmax(z1) - target) / 4, atol=1e-6)


def test_robust_losses_of_one_sample_by_hand() -> None:
    """Batch of one, sample 0, right for both: w = (0 + 1) / (0 + 1), L0 = 0.8 log(4/3) + 0.2 log 2."""
    rtm, ntm = LogitTable([[math.log(3), 0.0]], [[0.0, 0.0]]), LogitTable([[1.0, 0.0]])
    losses = run_robust(rtm, ntm, [0], ActConfig())
    assert losses.rtm.item() == pytest.approx(0.8 * math.log(4 / 3) + 0.2 * math.log(2), rel=1e-6)
    np.testing.assert_allclose(gradient(rtm.weak), [[-0.2, 0.2]], rtol=1e-5)  # 0.8 (3/4 - 1)
    np.testing.assert_allclose(gradient(rtm.strong), [[-0.1, 0.1]], rtol=1e-5)  # 0.2 (1/2 - 1)


def test_nothing_selected_drops_the_term_and_keeps_the_consistency() -> None:
    """Both nets wrong everywhere: a0 = 0. The corrected label is q's argmax: 0.8 on the label against 0.2 p0."""
    z0, zs = predicting([1, 2]), predicting([0, 0])
    rtm, ntm = LogitTable(z0, zs), LogitTable(predicting([2, 1]))
    state = ActState.start(torch.tensor([0, 0]), 3)
    losses = run_robust(rtm, ntm, [0, 0], ActConfig(), state)
    assert bool(losses.selection_empty)
    assert not losses.selected.any()
    assert not bool(losses.mining)
    assert state.counts.tolist() == [0, 0]
    assert losses.corrected_labels.tolist() == [0, 0]
    assert losses.rtm.item() == pytest.approx(0.2 * ce(zs, targets([0, 0], 3)).mean(), rel=1e-5)
    assert np.all(gradient(rtm.weak) == 0)
    np.testing.assert_allclose(gradient(rtm.strong), 0.2 * (softmax(zs) - targets([0, 0], 3)) / 2, atol=1e-6)


def test_the_released_mean_over_nothing_logs_nan_and_takes_our_step() -> None:
    """main.py, lines 170-171: the mean of an empty selection is NaN, and so is the logged loss; no gradient is."""
    torch.manual_seed(0)
    x, x_strong, labels = torch.randn(6, 4), torch.randn(6, 4), torch.zeros(6, dtype=torch.int64)
    last = nn.Linear(5, 3)
    with torch.no_grad():
        last.bias[0] = -50.0  # never class 0: both networks are wrong everywhere
    ours = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), last)
    released, ntm = copy.deepcopy(ours), copy.deepcopy(ours)
    state = ActState.start(labels, 3)
    losses = robust_losses(ours, ntm, x, x_strong, labels, torch.arange(6), state, 0, ActConfig())
    selected_loss = torch.nn.functional.cross_entropy(released(x), labels, reduction="none")[losses.selected].mean()
    strong_loss = torch.nn.functional.cross_entropy(released(x_strong), losses.corrected_labels)
    released_loss = 0.8 * selected_loss + 0.2 * strong_loss
    assert bool(losses.selection_empty)
    assert math.isnan(released_loss.item())
    assert math.isfinite(losses.rtm.item())
    for network, loss in ((ours, losses.rtm), (released, released_loss)):
        torch.autograd.backward(loss)
        torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4).step()
    for mine, theirs in zip(ours.parameters(), released.parameters(), strict=True):
        assert torch.isfinite(theirs).all()
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


def test_nothing_selected_and_no_consistency_is_a_zero_loss_that_can_be_stepped_on() -> None:
    rtm, ntm = LogitTable(predicting([1])), LogitTable(predicting([1]))
    losses = run_robust(rtm, ntm, [0], ActConfig(consistency=False))
    assert losses.rtm.item() == 0.0
    assert np.all(gradient(rtm.weak) == 0)


def test_everything_selected_is_the_plain_mean() -> None:
    labels = [0, 1, 2, 0]
    z0 = predicting(labels)
    rtm, ntm = LogitTable(z0), LogitTable(predicting(labels))
    state = ActState.start(torch.tensor(labels), 3)
    losses = run_robust(rtm, ntm, labels, ActConfig(), state)
    assert losses.selected.all()
    assert state.counts.tolist() == [1, 1, 1, 1]
    assert losses.corrected_labels.tolist() == labels
    assert losses.rtm.item() == pytest.approx(ce(z0, targets(labels, 3)).mean(), rel=1e-5)  # 0.8 and 0.2 of the same
    np.testing.assert_allclose(gradient(rtm.weak), 0.8 * (softmax(z0) - targets(labels, 3)) / 4, atol=1e-6)


def test_one_class_only() -> None:
    """C = 1: every p is 1 and every loss 0."""
    rtm, ntm = LogitTable([[3.0], [-1.0]]), LogitTable([[0.0], [7.0]])
    losses = run_robust(rtm, ntm, [0, 0], ActConfig(label_smoothing=0.1))
    assert losses.selected.all()
    assert losses.rtm.item() == 0.0
    assert losses.ntm.item() == 0.0


def test_corrected_label_moves_once_the_distribution_has() -> None:
    """p0 close to onehot(1), label 0: q_0 = 0.8^n falls below q_1 = 1 - 0.8^n at n = 4 (0.41), not at 3 (0.51)."""
    rtm, ntm = LogitTable([[0.0, 40.0]]), LogitTable([[0.0, 1.0]])
    state = ActState.start(torch.tensor([0]), 2)
    seen = [int(run_robust(rtm, ntm, [0], ActConfig(), state).corrected_labels) for _ in range(5)]
    assert seen == [0, 0, 0, 1, 1]
    np.testing.assert_allclose(state.label_ema.numpy(), [[0.8**5, 1 - 0.8**5]], rtol=1e-5)


# --- switches --------------------------------------------------------------------------------------------------------


def cells_batch() -> tuple[LogitTable, LogitTable, list[int]]:
    """The four cells of agreement with equal accuracies, so that mining is on unless switched off."""
    rtm = LogitTable(predicting([0, 0, 1, 1]), predicting([2, 0, 2, 1]))
    return rtm, LogitTable(predicting([0, 2, 0, 2])), [0, 0, 0, 0]


def test_selection_off_trains_on_every_sample() -> None:
    rtm, ntm, labels = cells_batch()
    state = ActState.start(torch.tensor(labels), 3)
    losses = run_robust(rtm, ntm, labels, ActConfig(selection=False), state)
    assert losses.selected.all()
    assert not losses.mined.any()
    assert not bool(losses.mining)
    assert state.counts.tolist() == [1, 1, 1, 1]
    expected = 0.8 * ce(predicting([0, 0, 1, 1]), targets(labels, 3)).mean()
    expected += 0.2 * ce(predicting([2, 0, 2, 1]), targets(labels, 3)).mean()
    assert losses.rtm.item() == pytest.approx(expected, rel=1e-5)


def test_mining_off_never_adds() -> None:
    rtm, ntm, labels = cells_batch()
    losses = run_robust(rtm, ntm, labels, ActConfig(mining=False))
    assert losses.selected.tolist() == [True, False, False, False]
    assert not bool(losses.mining)


def test_reweighting_off_counts_all_the_same() -> None:
    rtm, ntm, labels = cells_batch()
    state = ActState.start(torch.tensor(labels), 3)
    losses = run_robust(rtm, ntm, labels, ActConfig(reweighting=False, consistency=False), state, epoch=9)
    assert state.counts.tolist() == [1, 0, 1, 0]
    expected = ce(predicting([0, 0, 1, 1]), targets(labels, 3))[[0, 2]].mean()
    assert losses.rtm.item() == pytest.approx(expected, rel=1e-5)
    rtm, ntm, labels = cells_batch()
    weighted = run_robust(rtm, ntm, labels, ActConfig(consistency=False), epoch=9)
    assert weighted.rtm.item() == pytest.approx(expected / 10, rel=1e-5)  # w = 1 / 10


def test_consistency_off_neither_needs_nor_runs_the_strong_view() -> None:
    rtm, ntm, labels = cells_batch()
    losses = run_robust(rtm, ntm, labels, ActConfig(consistency=False))
    assert rtm.seen == [WEAK]
    assert rtm.strong.grad is None
    expected = ce(predicting([0, 0, 1, 1]), targets(labels, 3))[[0, 2]].mean()
    assert losses.rtm.item() == pytest.approx(expected, rel=1e-5)


def test_networks_run_in_the_published_order() -> None:
    order: list[str] = []
    z = torch.zeros(2, 3, requires_grad=True)

    def network(name: str, x: Tensor) -> Tensor:
        order.append(f"{name}({'weak' if float(x[0]) == WEAK else 'strong'})")
        return z

    labels = torch.tensor([0, 1])
    robust_losses(
        lambda x: network("rtm", x),
        lambda x: network("ntm", x),
        *views(2),
        labels,
        torch.arange(2),
        ActState.start(labels, 3),
        0,
        ActConfig(),
    )
    assert order == ["rtm(weak)", "ntm(weak)", "rtm(strong)"]


def test_missing_strong_view_and_negative_epoch_are_refused_before_the_state_changes() -> None:
    labels = torch.tensor([0, 1])
    state, net = ActState.start(labels, 3), LogitTable(predicting([0, 1]))
    weak, strong = views(2)
    with pytest.raises(ValueError, match="x_strong"):
        robust_losses(net, net, weak, None, labels, torch.arange(2), state, 0, ActConfig())
    with pytest.raises(ValueError, match="got -1"):
        robust_losses(net, net, weak, strong, labels, torch.arange(2), state, -1, ActConfig())
    assert state.counts.tolist() == [0, 0]


# --- precision, extremes, placement ----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_finite_logits_never_make_nan(data: st.DataObject) -> None:
    batch, classes = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    value = st.one_of(st.sampled_from([0.0, 1e4, -1e4, 1.0]), st.floats(-1e4, 1e4, width=32))
    logits = st.lists(
        st.lists(value, min_size=classes, max_size=classes), min_size=batch, max_size=batch
    )  # one row per sample
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=batch, max_size=batch))
    config = ActConfig(
        tau=data.draw(st.sampled_from([0.0, 0.025, 5.0])),
        selection_rule=data.draw(st.sampled_from(["agree", "rtm"])),
        label_smoothing=data.draw(st.sampled_from([0.0, 0.35])),
        penalty=data.draw(st.sampled_from(["exact", "code", "none"])),
        selection=data.draw(st.booleans()),
        consistency=data.draw(st.booleans()),
        latch_mining=data.draw(st.booleans()),
    )
    rtm, ntm = LogitTable(data.draw(logits), data.draw(logits)), LogitTable(data.draw(logits))
    state = ActState.start(torch.tensor(labels), classes)
    warm = warmup_losses(rtm, ntm, views(batch)[0], torch.tensor(labels), torch.arange(batch), state, config)
    (warm.rtm + warm.ntm).backward()  # type: ignore[no-untyped-call]
    robust = run_robust(rtm, ntm, labels, config, state, epoch=1)
    for tensor in (warm.rtm, warm.ntm, robust.rtm, robust.ntm, state.label_ema):
        assert torch.isfinite(tensor).all()
    for parameter in (*rtm.parameters(), *ntm.parameters()):
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
    np.testing.assert_allclose(state.label_ema.sum(dim=1).numpy(), 1.0, atol=1e-5)


def test_under_autocast_losses_are_float32_of_the_rounded_logits() -> None:
    torch.manual_seed(0)
    rtm, ntm = nn.Linear(6, 50), nn.Linear(6, 50)
    x, x_strong, labels = torch.randn(8, 6), torch.randn(8, 6), torch.arange(8)
    state, again = ActState.start(labels, 50), ActState.start(labels, 50)
    config = ActConfig(selection=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = robust_losses(rtm, ntm, x, x_strong, labels, torch.arange(8), state, 0, config)
        weak, strong = rtm(x), rtm(x_strong)
        warm = warmup_losses(rtm, ntm, x, labels, torch.arange(8), again, config)
    assert weak.dtype == torch.bfloat16
    assert {t.dtype for t in (losses.rtm, losses.ntm, warm.rtm, losses.rtm_logits)} == {torch.float32}
    z0, zs = (t.detach().float().numpy().astype(np.float64) for t in (weak, strong))
    target = targets(labels.numpy(), 50)
    assert losses.rtm.item() == pytest.approx(0.8 * ce(z0, target).mean() + 0.2 * ce(zs, target).mean(), rel=1e-5)
    losses.rtm.backward()  # type: ignore[no-untyped-call]
    assert rtm.weight.grad is not None
    assert rtm.weight.grad.abs().sum() > 0


def test_epoch_may_be_a_tensor() -> None:
    labels = torch.tensor([0])
    net, state = LogitTable([[1.0, 0.0]]), ActState.start(labels, 2)
    losses = robust_losses(
        net, net, *views(1), labels, torch.tensor([0]), state, torch.tensor(3), ActConfig(consistency_weight=0.0)
    )
    assert losses.rtm.item() == pytest.approx(math.log(1 + math.exp(-1)) / 4, rel=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_nothing_waits_for_the_device_and_the_numbers_agree() -> None:
    torch.manual_seed(0)
    weak, strong, other = (torch.randn(64, 10) for _ in range(3))
    labels, index = torch.randint(10, (64,)), torch.randperm(64)

    def run(device: str) -> tuple[RobustLosses, ActState]:
        z0, zs, z1, y, i = (t.to(device) for t in (weak, strong, other, labels, index))
        state = ActState.start(y, 10)
        torch.cuda.set_sync_debug_mode("error")  # any wait for the device raises
        try:
            config = ActConfig(latch_mining=True)
            warmup_losses(lambda _: z0, lambda _: z1, z0, y, i, state, config)
            return robust_losses(lambda x: x, lambda _: z1, z0, zs, y, i, state, 2, config), state
        finally:
            torch.cuda.set_sync_debug_mode("default")

    (there, its_state), (here, own_state) = run("cuda"), run("cpu")
    assert torch.equal(there.selected.cpu(), here.selected)
    assert torch.equal(its_state.counts.cpu(), own_state.counts)
    torch.testing.assert_close(there.rtm.cpu(), here.rtm)
    torch.testing.assert_close(its_state.label_ema.cpu(), own_state.label_ema)


# --- state and settings ----------------------------------------------------------------------------------------------


def test_state_starts_with_zero_counts_and_one_hot_distributions() -> None:
    state = ActState.start(torch.tensor([2, 0]), 3)
    assert state.counts.dtype == torch.int32
    assert state.counts.tolist() == [0, 0]
    assert state.label_ema.dtype == torch.float32
    assert state.label_ema.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert not bool(state.mining_stopped)


@pytest.mark.parametrize(
    "labels", [torch.tensor([0, 3]), torch.tensor([-1, 0]), torch.tensor([0.0]), torch.eye(2).int()]
)
def test_state_refuses_what_are_not_labels(labels: Tensor) -> None:
    with pytest.raises(ValueError, match="labels must"):
        ActState.start(labels, 3)


def test_state_survives_saving_and_safe_loading() -> None:
    labels = [0, 0, 0, 0]
    state = ActState.start(torch.tensor(labels), 3)
    run_robust(hits(2, 4), hits(4, 4), labels, ActConfig(latch_mining=True), state)
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    file.seek(0)
    restored = ActState.start(torch.tensor(labels), 3)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(restored.counts, state.counts)
    assert torch.equal(restored.label_ema, state.label_ema)
    assert bool(restored.mining_stopped)
    run_robust(hits(2, 4), hits(4, 4), labels, ActConfig(), restored)
    assert not torch.equal(restored.counts, state.counts)  # a copy, not the same memory


def test_state_of_other_data_is_refused_whole() -> None:
    state, other = ActState.start(torch.tensor([0, 1]), 2), ActState.start(torch.tensor([0, 1]), 3)
    other.counts += 5
    with pytest.raises(ValueError, match="label_ema must be"):
        state.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="entries"):
        state.load_state_dict({"counts": other.counts})
    assert state.counts.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tau", -0.1),
        ("tau", math.inf),
        ("tau", "0.1"),
        ("selection_rule", "both"),
        ("penalty", "clamped"),
        ("label_smoothing", 1.0),
        ("label_smoothing", -0.1),
        ("penalty_weight", -1.0),
        ("penalty_weight", math.nan),
        ("consistency_weight", 1.1),
        ("label_ema", -0.1),
        ("label_ema", True),
        ("selection", 1),
        ("mining", "yes"),
        ("latch_mining", None),
    ],
)
def test_config_names_the_setting_and_the_value_it_refuses(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^{name} must be .*got {value!r}$"):
        ActConfig(**{name: value})


def test_config_defaults_are_the_papers() -> None:
    config = ActConfig()
    assert (config.tau, config.selection_rule, config.penalty) == (0.025, "agree", "exact")
    assert (config.consistency_weight, config.label_ema, config.label_smoothing) == (0.2, 0.8, 0.0)
    assert {config.selection, config.mining, config.reweighting, config.consistency} == {True}
    assert not config.latch_mining

"""Learning-rate plans against tables worked out by hand from the published definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tune_lnl.config.lr_plans import DecayPlan, Plan, PlanSpec, lr_plan, parse_plan, reads_warmup_lr, scale_plan
from tune_lnl.errors import InputError

HALF, QUARTER = 0.5, (1 + math.cos(math.pi / 4)) / 2  # a cosine half way, and a quarter of the way

PLAIN = ["baseline", "step", "step30", "linear", "cosine", "cosineRestart", "cosineNew"]


@pytest.mark.parametrize(
    ("spec", "epochs", "warmup", "table"),
    [
        # lr is 1 and the warm-up 0.5, so that the two never look alike.
        ("baseline", 160, 5, {0: 1, 4: 1, 59: 1, 60: 0.1, 119: 0.1, 120: 0.01, 149: 0.01, 150: 1e-3, 159: 1e-3}),
        ("step", 160, 5, {0: 0.5, 4: 0.5, 5: 1, 59: 1, 60: 0.1, 120: 0.01, 150: 1e-3}),
        ("step", 100, 70, {69: 0.5, 70: 0.1}),  # overwritten, not shifted
        ("step30", 110, 5, {4: 0.5, 5: 1, 49: 1, 50: 0.1, 79: 0.1, 80: 0.01, 99: 0.01, 100: 1e-3}),
        ("linear", 65, 5, {4: 0.5, 5: 1, 59: 1, 60: 1, 62: (1 + 1e-5) / 2, 64: 1e-5}),
        ("linear", 60, 5, {4: 0.5, 59: 1}),
        ("cosine", 64, 5, {4: 0.5, 5: 1, 60: 1, 61: QUARTER, 62: HALF, 63: 1 - QUARTER}),
        ("cosine", 40, 5, {4: 0.5, 5: 1, 39: 1}),  # the decay would start after the run: never reached
        ("cosine", 66, 62, {61: 0.5, 62: 1, 64: (1 + math.cos(math.pi / 3)) / 2}),  # appended: starts after the warm-up
        ("cosineRestart", 124, 5, {4: 0.5, 59: 1, 60: 1, 75: HALF, 90: 1, 119: 1, 120: 1, 121: QUARTER, 122: HALF}),
        ("cosineRestart", 80, 0, {0: 1, 75: HALF}),
        ("cosineNew", 95, 5, {4: 0.5, 59: 1, 60: 1, 75: HALF, 86: (1 + math.cos(math.pi * 26 / 30)) / 2}),
        (
            "cosineNew",
            95,
            5,
            {
                87: (1 + math.cos(math.pi * 0.9)) / 2,
                89: QUARTER * (1 + math.cos(math.pi * 0.9)) / 2,
                91: HALF * (1 + math.cos(math.pi * 0.9)) / 2,
            },
        ),
        ("step:4,6", 8, 2, {0: 0.5, 1: 0.5, 2: 1, 3: 1, 4: 0.1, 5: 0.1, 6: 0.01, 7: 0.01}),
        ("step:4,6,0.5", 8, 2, {1: 0.5, 2: 1, 4: 0.5, 6: 0.25}),
        ("step:4", 6, 0, {0: 1, 3: 1, 4: 0.1}),
        ("step:4,1", 6, 0, {0: 1, 1: 0.1, 4: 0.01}),  # a last item of exactly 1 is a milestone
        ("step:0.5", 4, 1, {0: 0.5, 1: 1, 3: 1}),  # a factor and no milestone
        ("step:2,3e0", 5, 0, {1: 1, 2: 0.1, 3: 0.01}),
        ("linear:2", 6, 1, {0: 0.5, 1: 1, 2: 1, 3: (2 + 1e-5) / 3, 5: 1e-5}),
        ("linear:2,0.4", 5, 0, {0: 1, 1: 1, 2: 1, 3: 0.7, 4: 0.4}),
        ("linear:2,2", 5, 0, {2: 1, 3: 1.5, 4: 2}),  # a line may rise
        ("linear:2,0.4,5", 8, 0, {2: 1, 3: (1 + 1e-5) / 2, 4: 1e-5, 5: 1e-5, 7: 1e-5}),  # 0.4 is ignored
        ("linear:2,0.4,2", 5, 0, {2: 1, 4: 1e-5}),  # a stop that is not after the start is the last epoch
        ("linear:1,0.2,4", 5, 3, {2: 0.5, 3: 1, 4: (1 + 1e-5) / 2}),  # start inside the warm-up
        ("linear:3,0.5", 4, 0, {2: 1, 3: 1}),  # a line of one value is its start
        ("cosine:2", 6, 1, {0: 0.5, 1: 1, 2: 1, 3: QUARTER, 4: HALF, 5: 1 - QUARTER}),
        ("cosine:2,0.2", 6, 0, {2: 1, 3: 0.2 + 0.8 * QUARTER, 4: 0.6}),
        ("cosine:2,0.2,4", 8, 0, {2: 1, 3: 0.6, 4: 0.6, 7: 0.6}),  # the end itself is never reached
        ("cosine:2,0.2,1", 6, 0, {4: 0.6}),
        ("cosine: 2, 0.2, 4", 5, 0, {3: 0.6}),
        ("cosine:2,0,12", 6, 0, {5: (1 + math.cos(math.pi * 0.3)) / 2}),  # a stop after the run: cut
        ("halfcosine:2", 4, 1, {0: 0.5, 1: 1, 2: HALF, 3: 1 - QUARTER}),
        ("halfcosine:2,0.2,4", 6, 0, {1: 1, 2: 0.6, 3: 0.2 + 0.8 * (1 - QUARTER), 5: 0.2 + 0.8 * (1 - QUARTER)}),
        ("halfcosine:5", 4, 0, {0: 1, 3: 1}),
        ({"shape": "cosine", "end": 0.2}, 6, 1, {0: 0.5, 1: 1, 2: 0.2 + 0.8 * QUARTER, 3: 0.6, 5: 0.2}),
        ({"shape": "linear", "end": 0.4}, 6, 2, {1: 0.5, 2: 1, 3: 0.8, 4: 0.6, 5: 0.4}),
        ({"shape": "constant"}, 4, 1, {0: 0.5, 1: 1, 3: 1}),
        ({"shape": "constant", "end": 1.0}, 4, 1, {0: 0.5, 3: 1}),
        ({"shape": "cosine", "end": 0}, 3, 0, {0: 1, 1: 0.5, 2: 0}),
        ({"shape": "cosine", "end": 0.2}, 4, 3, {2: 0.5, 3: 1}),  # one epoch after the warm-up: lr itself
        ({"shape": "cosine", "end": 0.2}, 3, 3, {0: 0.5, 2: 0.5}),
        ({"shape": "cosine", "end": 0.2}, 3, 9, {0: 0.5, 2: 0.5}),
    ],
)
def test_plan_values(spec: PlanSpec, epochs: int, warmup: int, table: dict[int, float]) -> None:
    plan = lr_plan(spec, 1.0, epochs, warmup, 0.5)
    assert len(plan) == epochs
    assert {epoch: plan[epoch] for epoch in table} == pytest.approx(table, abs=1e-15)


@pytest.mark.parametrize(
    "spec",
    [*PLAIN, "step:50,80", "step:50,0.5", "linear:9", "cosine:9", "halfcosine:9", {"shape": "linear", "end": 0.1}],
)
def test_plans_without_an_absolute_end_are_proportional_to_lr(spec: PlanSpec) -> None:
    unit = lr_plan(spec, 1.0, 130, 5, 0.5)
    assert lr_plan(spec, 0.02, 130, 5, 0.01) == pytest.approx([0.02 * value for value in unit])


def test_default_plan_of_the_released_script() -> None:
    """lr 1e-3, 20 of 100 epochs warm-up: 5e-4 + 5e-4 (1 + cos(π i / 80)) / 2 from epoch 20 on."""
    plan = lr_plan("cosine:20,5e-4,100", 1e-3, 100, 20, 1e-3)
    assert plan[:21] == [1e-3] * 21
    assert plan[60] == pytest.approx(7.5e-4)
    assert plan[99] == pytest.approx(5.0019e-4, abs=5e-9)
    assert min(plan) == plan[99]


def test_default_plan_string_with_a_longer_warmup_decays_after_it_and_stays_flat() -> None:
    plan = lr_plan("cosine:20,5e-4,100", 0.01, 150, 50, 0.001)
    assert len(plan) == 150
    assert plan[49] == 0.001
    assert plan[50] == 0.01
    assert plan[129] == pytest.approx(5.0366e-4, abs=5e-9)
    assert plan[128] > plan[129]
    assert plan[130:] == [plan[129]] * 20


def test_no_warmup_lr_is_the_networks_own() -> None:
    assert lr_plan("step:3", 0.2, 4, 2, None) == pytest.approx([0.2, 0.2, 0.2, 0.02])


def test_last_epoch_of_a_shape_is_its_end_to_the_last_digit() -> None:
    for shape in ("cosine", "linear"):
        assert lr_plan({"shape": shape, "end": 0.05}, 0.013, 150, 50, None)[-1] == 0.013 * 0.05


@pytest.mark.parametrize(
    ("spec", "lr", "epochs", "message"),
    [
        ("cosine:20,5e-4,100", 5e-4, 100, "plan ends must lie below their start: .* from 0.0005 to 0.0005"),
        ("halfcosine:20,1e-2", 5e-3, 100, "plan ends must lie below their start: .* from 0.005 to 0.01"),
        ("linear", 0.1, 50, "starts at epoch 60 of 50"),
        ("linear:9", 0.1, 8, "starts at epoch 9 of 8"),
        ("cosine", 0.0, 100, "lr must be a finite number above 0, got 0.0"),
        ("cosine", math.nan, 100, "lr must be .* got nan"),
        ("cosine", 0.1, 0, "epochs must be a whole number of at least 1, got 0"),
        ("cosine", 0.1, 2.5, "epochs must be a whole number"),
    ],
)
def test_impossible_values_are_refused_with_rule_and_value(
    spec: PlanSpec, lr: float, epochs: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        lr_plan(spec, lr, epochs, 0, None)


def test_warmup_that_is_no_lr_or_no_length_is_refused() -> None:
    with pytest.raises(InputError, match=r"warmup_lr must be .* got -0\.1"):
        lr_plan("step", 0.1, 10, 2, -0.1)
    with pytest.raises(InputError, match=r"warmup_epochs must be .* got -1"):
        lr_plan("step", 0.1, 10, -1, None)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cosin", "did you mean 'cosine'"),
        ("cosin:20,5e-4", "did you mean 'cosine:'"),
        ("exponential", "valid: baseline, cosine, .*step30"),
        ("exponential", "halfcosine:START"),
        ("cosineNew:20", "cosine:"),
        ("", "valid: baseline"),
        ("step:", "'' is not a number"),
        ("step:50,0", "factor must be above 0"),
        ("step:50,80.5", "whole numbers, got '80.5'"),
        ("step:50.5,0.1", "whole numbers, got '50.5'"),
        ("step:-50", "not negative, got '-50'"),
        ("step:50,inf", "finite and not negative, got 'inf'"),
        ("step:99999999999", "epochs lie in 0..1000000"),
        ("linear:20,x,100", "'x' is not a number"),
        ("linear:20,1,2,3", "at most three items, got 4"),
        ("cosine:20,-5e-4", "not negative, got '-5e-4'"),
        ("cosine:20,5e-4,100,1", "at most three items"),
        ("cosine:20:30", "whole numbers, got '20:30'"),
        ("cosine:,5e-4", "whole numbers, got ''"),
        ("halfcosine:ten", "halfcosine:START"),
        ({"shape": "cosinus", "end": 0.1}, "did you mean 'cosine'"),
        ({"end": 0.1}, "unknown shape None"),
        ({"shape": "cosine"}, "share of lr from 0 to 1, got None"),
        ({"shape": "cosine", "end": 5}, "share of lr from 0 to 1, got 5"),
        ({"shape": "linear", "end": "0.1"}, "got '0.1'"),
        ({"shape": "linear", "end": math.nan}, "got nan"),
        ({"shape": "linear", "end": True}, "got True"),
        ({"shape": "constant", "end": 0.1}, "constant lr plan stays at lr, got end 0.1"),
        ({"shape": "cosine", "ends": 0.1}, "did you mean 'end'"),
        (0.1, "plan string or {shape, end}, got 0.1"),
        (None, "plan string or {shape, end}, got None"),
    ],
)
def test_unreadable_plans_are_refused_before_any_lr_is_known(spec: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_plan(spec)
    with pytest.raises(InputError):
        scale_plan(spec, 0.5)


@pytest.mark.parametrize(
    ("spec", "factor", "scaled"),
    [
        ("cosine:20,5e-4,100", 0.5, "cosine:10,5e-4,50"),
        ("cosine:20,5e-4,100", 12 / 150, "cosine:2,5e-4,8"),
        ("cosine:20", 2.0, "cosine:40"),
        ("cosine:20,5", 2.0, "cosine:40,5"),
        ("halfcosine:25,1e-3", 0.1, "halfcosine:3,1e-3"),  # 2.5 goes up
        ("linear:20,50,100", 0.5, "linear:10,50,50"),  # the ignored item stays
        ("linear:45", 7 / 90, "linear:4"),  # 3.5 on paper, a hair below it in floating point
        ("step:50,80", 0.1, "step:5,8"),
        ("step:50,80,0.5", 0.1, "step:5,8,0.5"),
        ("step:50,8e1", 0.1, "step:5,8"),
        ("step:50,80", 0.001, "step:1,1"),
        ("step:0.5", 10.0, "step:0.5"),
        ("cosine:0,5e-4", 0.1, "cosine:0,5e-4"),
        ("cosine: 20, 5e-4", 0.5, "cosine:10,5e-4"),
    ],
)
def test_scaling_a_plan_string(spec: str, factor: float, scaled: str) -> None:
    assert scale_plan(spec, factor) == scaled


@pytest.mark.parametrize("spec", [*PLAIN, {"shape": "cosine", "end": 0.05}])
def test_scaling_leaves_names_and_mappings(spec: PlanSpec) -> None:
    assert scale_plan(spec, 0.1) == spec


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_scaling_by_no_length_is_refused(factor: float) -> None:
    with pytest.raises(InputError, match="factor of a plan"):
        scale_plan("cosine:20", factor)


@pytest.mark.parametrize("spec", [*PLAIN, "step:5,8", "linear:3", "cosine:3", "halfcosine:3", {"shape": "constant"}])
def test_a_plan_reads_the_warmup_lr_exactly_if_it_says_so(spec: PlanSpec) -> None:
    changes = lr_plan(spec, 0.1, 70, 4, 0.01) != lr_plan(spec, 0.1, 70, 4, 0.02)
    assert reads_warmup_lr(spec) is changes
    assert reads_warmup_lr(spec) is (spec != "baseline")


EPOCH = st.integers(0, 200)
LR = st.floats(1e-6, 10)
DECAYS = st.sampled_from(["linear", "cosine", "halfcosine"])
SPECS: st.SearchStrategy[PlanSpec] = st.one_of(
    st.sampled_from(PLAIN),
    st.builds(lambda name, s: f"{name}:{s}", DECAYS, EPOCH),
    st.builds(lambda name, s, end: f"{name}:{s},{end!r}", DECAYS, EPOCH, LR),
    st.builds(lambda name, s, end, stop: f"{name}:{s},{end!r},{stop}", DECAYS, EPOCH, LR, EPOCH),
    st.builds(lambda steps: f"step:{','.join(map(str, steps))}", st.lists(st.integers(1, 200), min_size=1, max_size=4)),
    st.builds(
        lambda steps, f: f"step:{','.join(map(str, [*steps, f]))}",
        st.lists(EPOCH, max_size=4),
        st.floats(0.01, 1, exclude_max=True),
    ),
    st.builds(
        lambda shape, end: {"shape": shape, "end": end}, st.sampled_from(["cosine", "linear"]), st.floats(1e-3, 1)
    ),
)


def cannot_be_made(plan: Plan, lr: float, epochs: int) -> bool:
    """A cosine that would not fall, or a line that starts after the last epoch and has no stop of its own."""
    if not isinstance(plan, DecayPlan):
        return False
    if plan.curve == "linear":
        return plan.start > epochs and (plan.stop is None or plan.stop <= plan.start)
    return plan.end is not None and plan.end >= lr


@given(spec=SPECS, lr=LR, epochs=st.integers(1, 180), warmup=st.integers(0, 200), warmup_lr=st.none() | LR)
def test_a_valid_plan_has_a_positive_value_for_every_epoch(
    spec: PlanSpec, lr: float, epochs: int, warmup: int, warmup_lr: float | None
) -> None:
    if cannot_be_made(parse_plan(spec), lr, epochs):
        with pytest.raises(InputError, match=r"below their start|start within the run"):
            lr_plan(spec, lr, epochs, warmup, warmup_lr)
        return
    plan = lr_plan(spec, lr, epochs, warmup, warmup_lr)
    assert len(plan) == epochs
    assert all(math.isfinite(value) and value > 0 for value in plan)
    if reads_warmup_lr(spec):
        assert plan[:warmup] == [lr if warmup_lr is None else warmup_lr] * min(warmup, epochs)


@given(spec=SPECS, factor=st.floats(0.01, 5))
def test_a_scaled_plan_is_of_the_same_form(spec: PlanSpec, factor: float) -> None:
    scaled = scale_plan(spec, factor)
    before, after = parse_plan(spec), parse_plan(scaled)
    assert type(before) is type(after)
    assert reads_warmup_lr(scaled) is reads_warmup_lr(spec)
    assume(isinstance(spec, str))
    assert str(scaled).partition(":")[0] == str(spec).partition(":")[0]
    assert str(scaled).count(",") == str(spec).count(",")


def test_a_far_away_stop_costs_nothing() -> None:
    plan = lr_plan("cosine:0,1e-5,1000000", 0.1, 3, 0, None)
    assert plan == pytest.approx([0.1, 0.1, 0.1], rel=1e-6)

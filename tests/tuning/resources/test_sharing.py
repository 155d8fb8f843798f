"""How many trials share a device, from injected readings: no GPU is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_search import TINY, tiny_space

from tune_lnl.errors import InputError
from tune_lnl.tuning.resources.divide import Resources, shared_resources
from tune_lnl.tuning.resources.sharing import (
    Gpu,
    Reading,
    choose_sharing,
    heavy_configs,
    levels,
    most_at_once,
    need_of,
    smallest,
    take_readings,
)

GB = 10**9
CARD = 80 * GB


def readings(*speeds: float, peak: int = 2 * GB, overhead: int = GB // 2) -> list[Reading]:
    """1, 2, 4, ... trials at once with these total speeds."""
    return [Reading(2**level, speed, peak, overhead) for level, speed in enumerate(speeds)]


def chosen(measured: list[Reading], room: int = CARD) -> int:
    return choose_sharing(measured, "a card", CARD, room, on_gpu=True).trials


class TestTheChoice:
    @pytest.mark.parametrize(
        ("speeds", "trials"),
        [
            ((1000,), 1),
            ((1000, 1050), 1),  # within a tenth of the best
            ((1000, 1111), 1),  # 0.9 x 1111 = 999.9
            ((1000, 1112), 2),  # 0.9 x 1112 = 1000.8
            ((1000, 1900, 3000, 3200, 3250), 4),
            ((1000, 2000, 4000, 8000), 8),
            ((1000, 700), 1),
        ],
    )
    def test_the_fewest_within_a_tenth_of_the_best(self, speeds: tuple[float, ...], trials: int) -> None:
        assert chosen(readings(*speeds)) == trials

    def test_what_does_not_fit_with_its_margin_neither_wins_nor_sets_the_best(self) -> None:
        # (2 + 0.5) x 1.1 = 2.75 GB: four are 11 GB, and eight 22 GB.
        measured = readings(1000, 2000, 4000, 8000)
        assert need_of(measured) == 2_750_000_000
        assert chosen(measured, room=22 * GB) == 8
        assert chosen(measured, room=22 * GB - 1) == 4
        assert chosen(measured, room=11 * GB - 1) == 2

    def test_one_that_has_run_alone_fits(self) -> None:
        assert chosen(readings(1000, 2000), room=GB) == 1

    def test_the_need_is_that_of_the_largest_peak_and_context(self) -> None:
        measured = [Reading(1, 1.0, 100, 50), Reading(2, 2.0, 300, 0)]
        assert need_of(measured) == 385

    @given(st.lists(st.floats(1, 1e6), min_size=1, max_size=8), st.integers(1, CARD))
    def test_it_is_never_more_than_a_tenth_slower_than_any_that_fits(self, speeds: list[float], room: int) -> None:
        measured = readings(*speeds)
        trials = chosen(measured, room)
        by_trials = {reading.trials: reading.images_per_second for reading in measured}
        fitting = [k for k in by_trials if k == 1 or k * need_of(measured) <= room]
        assert trials in fitting
        assert by_trials[trials] >= 0.9 * max(by_trials[k] for k in fitting)


class TestTheCap:
    def test_share_and_context_together_are_exactly_the_share(self) -> None:
        sharing = choose_sharing(readings(1000, 2000, 4000), "a card", CARD, CARD, on_gpu=True)
        assert sharing.trials == 4
        assert sharing.memory_fraction is not None
        assert sharing.memory_fraction == pytest.approx(0.25 - 0.5 / 80)
        assert sharing.memory_fraction * CARD + GB // 2 == pytest.approx(CARD / 4)

    def test_the_measured_peak_lies_under_it(self) -> None:
        measured = readings(1000, 2000, 4000, 8000, peak=8 * GB)
        sharing = choose_sharing(measured, "a card", CARD, CARD, on_gpu=True)
        assert sharing.trials == 8
        assert sharing.memory_fraction is not None
        assert sharing.memory_fraction * CARD > 8 * GB

    def test_none_for_one_alone_and_none_on_cpus(self) -> None:
        assert choose_sharing(readings(1000), "a card", CARD, CARD, on_gpu=True).memory_fraction is None
        assert choose_sharing(readings(10, 20), "a processor", CARD, CARD, on_gpu=False).memory_fraction is None


class TestWhatIsSaid:
    def test_on_a_gpu(self) -> None:
        sharing = choose_sharing(readings(1000, 1900, 3000, 3200), "Some Card", CARD, 79 * GB, on_gpu=True)
        assert sharing.lines() == [
            "measured on Some Card: a trial peaks at 2.0 GB + 0.5 GB of CUDA context, 2.8 GB with a margin of 10%: "
            "28 fit into 79.0 GB",
            "images/s by trials at once: 1: 1000, 2: 1900, 4: 3000, 8: 3200; 4 is the fewest within a tenth of the "
            "best: each gets 1/4 GPU, at most 19.5 GB for training",
        ]

    def test_on_cpus(self) -> None:
        measured = readings(100, 190, peak=40_000_000, overhead=300_000_000)
        first, second = choose_sharing(measured, "cores", 8 * GB, 6 * GB, on_gpu=False).lines()
        assert "40 MB + 0.3 GB of Python and libraries, 0.4 GB with a margin of 10%: 16 fit into 6.0 GB" in first
        assert second.endswith("2 is the fewest within a tenth of the best: each gets 1/2 of the CPUs")


class TestTakingReadings:
    def take(self, speeds: dict[int, float], most: int = 64, room: int = CARD) -> list[int]:
        """Which numbers were asked for; one that has no speed runs out of memory."""
        asked = []

        def read(trials: int) -> Reading | None:
            asked.append(trials)
            return Reading(trials, speeds[trials], 2 * GB, GB // 2) if trials in speeds else None

        found = take_readings(read, most, room)
        assert [reading.trials for reading in found] == [k for k in asked if k in speeds]
        return asked

    def test_it_doubles_while_that_is_faster(self) -> None:
        assert self.take({1: 1, 2: 2, 4: 3, 8: 3.1, 16: 3.1, 32: 9}) == [1, 2, 4, 8, 16]

    def test_it_ends_where_the_memory_would(self) -> None:
        assert self.take({1: 1, 2: 2, 4: 4, 8: 8}, room=22 * GB - 1) == [1, 2, 4]

    def test_it_ends_where_the_memory_does(self) -> None:
        assert self.take({1: 1, 2: 2}) == [1, 2, 4]

    def test_it_ends_where_the_cores_do(self) -> None:
        assert self.take({1: 1, 2: 2, 4: 4, 8: 8}, most=7) == [1, 2, 4]

    def test_one_that_does_not_fit_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"one trial runs out of the 3\.0 GB .* lower the largest batch_size"):
            self.take({}, room=3 * GB)


@pytest.mark.parametrize(("most", "expected"), [(1, [1]), (2, [1, 2]), (3, [1, 2]), (16, [1, 2, 4, 8, 16]), (0, [1])])
def test_levels(most: int, expected: list[int]) -> None:
    assert levels(most) == expected


@pytest.mark.parametrize(
    ("cpus", "cpus_per_trial", "wanted", "expected"),
    [
        (16, None, 1000, 16),  # a core each at least
        (16, 4.0, 1000, 4),
        (2, 4.0, 1000, 1),
        (16, 0.5, 1000, 32),
        (16, None, 1, 1),  # nobody to share with
        (16, None, 3, 4),
        (16, None, 4, 4),
    ],
)
def test_no_more_than_the_cores_feed_and_the_search_wants(
    cpus: int, cpus_per_trial: float | None, wanted: int, expected: int
) -> None:
    assert most_at_once(cpus, cpus_per_trial, wanted) == expected


def test_the_share_is_planned_for_the_smallest_gpu() -> None:
    cards = [Gpu(0, "large", 80 * GB, 80 * GB), Gpu(1, "small", 24 * GB, 24 * GB), Gpu(2, "small", 24 * GB, 9 * GB)]
    assert smallest(cards).index == 2
    assert smallest(cards[:2]).index == 1


class TestTheMachine:
    """From the share to what every trial gets."""

    def share(self, trials: int, on_gpu: bool = True) -> Resources:
        speeds = [2.0**level for level in range(trials.bit_length())]
        sharing = choose_sharing(readings(*speeds, peak=1), "a card", CARD, CARD, on_gpu)
        assert sharing.trials == trials
        return shared_resources(sharing, 16, 2 if on_gpu else 0)

    def test_gpus(self) -> None:
        assert self.share(1) == Resources(8.0, 1.0, 2, 8)
        assert self.share(4) == Resources(2.0, 0.25, 8, 2)

    def test_cpus(self) -> None:
        assert self.share(1, on_gpu=False) == Resources(16.0, 0.0, 1, 16)
        assert self.share(4, on_gpu=False) == Resources(4.0, 0.0, 4, 4)

    def test_what_was_asked_for_stays(self) -> None:
        sharing = choose_sharing(readings(1, 2, 4, peak=1), "a card", CARD, CARD, on_gpu=True)
        assert shared_resources(sharing, 16, 1, cpus_per_trial=1.0) == Resources(1.0, 0.25, 4, 1)
        assert shared_resources(sharing, 16, 1, concurrent=2) == Resources(4.0, 0.25, 2, 4)
        assert shared_resources(sharing, 16, 1, concurrent=9) == Resources(4.0, 0.25, 4, 4)
        with pytest.raises(InputError, match="--concurrent is at least 1, got 0"):
            shared_resources(sharing, 16, 1, concurrent=0)

    def test_cores_that_do_not_divide_run_no_more_trials_than_were_chosen(self) -> None:
        sharing = choose_sharing(readings(1, 2, 4, peak=1), "a processor", CARD, CARD, on_gpu=False)
        assert shared_resources(sharing, 6, 0) == Resources(1.0, 0.0, 4, 1)


class TestTheHeaviestTrial:
    def test_the_largest_batch(self, tmp_path: Path) -> None:
        search = {**TINY["search"], "batch_size": {"type": "choice", "choices": [64, 256, 32]}}
        space = tiny_space(tmp_path, search=search, fixed={"epochs": 6}, start=[])
        (config,) = heavy_configs(space)
        assert config.flat()["batch_size"] == 256

    def test_every_choice_may_be_the_heaviest(self, tmp_path: Path) -> None:
        search = {**TINY["search"], "consistency": {"type": "choice", "choices": [True, False]}}
        space = tiny_space(tmp_path, search=search, start=[])
        assert [config.flat()["consistency"] for config in heavy_configs(space)] == [True, False]

    def test_numbers_do_not_multiply_it(self, tmp_path: Path) -> None:
        (config,) = heavy_configs(tiny_space(tmp_path))
        assert config.flat()["batch_size"] == 64

"""The comparison of a confirmation, and its conclusion when there is no significant difference."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_search import tiny_space

from tune_lnl.config.yaml import dump_yaml
from tune_lnl.tuning.confirm.statistics import (
    final_config,
    holm,
    paired_test,
    rank_candidates,
    replicate_config,
    replicate_seeds,
)
from tune_lnl.tuning.runs.confirmation import Confirmation, read_confirmation
from tune_lnl.tuning.runs.layout import RunFiles

# ---- configs


def test_replicates_differ_in_all_three_seeds_and_are_the_same_for_every_config(tmp_path: Path) -> None:
    space = tiny_space(tmp_path)
    one, other = (space.config(point) for point in space.start)
    seeds = [replicate_seeds(replicate_config(one, replicate)) for replicate in range(3)]
    assert seeds == [replicate_seeds(replicate_config(other, replicate)) for replicate in range(3)]
    own = replicate_seeds(one)
    assert own.keys() == {"validation.seed", "seed", "dataset.noise_seed"}
    for name in own:
        assert len({own[name], *(replicate[name] for replicate in seeds)}) == 4
    changed = {name for name, value in replicate_config(one, 0).flat().items() if value != one.flat()[name]}
    assert changed == set(own)


def test_the_largest_seeds_wrap_around(tmp_path: Path) -> None:
    space = tiny_space(tmp_path, ["validation.seed=4294967295", "dataset.noise_seed=4294967295"])
    seeds = replicate_seeds(replicate_config(space.config(space.start[0]), 0))
    assert seeds == {"validation.seed": 0, "seed": 1, "dataset.noise_seed": 0}


def test_labels_from_a_file_have_no_noise_seed_to_change(tmp_path: Path) -> None:
    space = tiny_space(tmp_path, ["dataset.noise={file: labels.npy}"])
    config = space.config(space.start[0])
    assert replicate_seeds(config).keys() == {"validation.seed", "seed"}
    assert replicate_config(config, 0).dataset == config.dataset


def test_the_winner_is_trained_on_all_the_data_with_the_runs_own_seeds(tmp_path: Path) -> None:
    space = tiny_space(tmp_path)
    config = space.config(space.start[0])
    final = final_config(config)
    assert final.validation.fraction == 0
    assert replicate_seeds(final) == replicate_seeds(config)
    assert {name for name, value in final.flat().items() if value != config.flat()[name]} == {"validation.fraction"}


# ---- statistics


def test_paired_t_test_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, sample deviation 1, standard error 1 / sqrt(3), t = 3.4641 with 2 degrees of freedom,
    # for which p = 2 * (1/2 - t / (2 sqrt(2 + t**2))) and the 97.5% quantile is 4.30265.
    found = paired_test([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    t = 2 * math.sqrt(3)
    assert found.difference == pytest.approx(2.0)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t * t))
    half = 4.302653 / math.sqrt(3)
    assert found.interval == pytest.approx((2 - half, 2 + half), rel=1e-5)


def test_pairs_that_differ_by_nothing_or_always_by_the_same() -> None:
    assert paired_test([1.0, 2.0], [1.0, 2.0]).p == 1.0
    assert paired_test([2.0, 3.0], [1.0, 2.0]).p == 0.0
    assert paired_test([2.0, 3.0], [1.0, 2.0]).interval == (1.0, 1.0)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_pairing_sees_what_the_means_alone_hide() -> None:
    replicates = [50.0, 60.0, 70.0, 80.0, 90.0]
    better = [value + 2 + (-1) ** index * 0.1 for index, value in enumerate(replicates)]
    first, second = rank_candidates({4: replicates, 9: better}, "max")
    assert (first.number, second.number) == (9, 4)
    assert second.distinguishable is True
    assert second.difference == pytest.approx(2.02)


def test_noise_larger_than_the_difference_is_not_distinguishable() -> None:
    ranked = rank_candidates({1: [70.0, 74.0, 68.0, 73.0, 71.0], 2: [71.0, 70.0, 73.0, 69.0, 72.0]}, "max")
    assert [row.number for row in ranked] == [1, 2]
    assert ranked[1].distinguishable is False
    assert ranked[0].distinguishable is None


def test_ranking_rules() -> None:
    tied = rank_candidates({8: [1.0, 3.0], 3: [2.0, 2.0]}, "max")
    assert [row.number for row in tied] == [3, 8]
    low = rank_candidates({1: [0.9, 0.8], 2: [0.5, 0.4]}, "min")
    assert [row.number for row in low] == [2, 1]
    assert low[1].difference == pytest.approx(0.4), "positive: the first is better, also where less is better"


def test_a_config_that_diverged_once_comes_last_and_is_not_tested() -> None:
    ranked = rank_candidates({1: [99.0, math.nan], 2: [50.0, 51.0], 3: [49.0, 53.0]}, "max")
    assert [row.number for row in ranked] == [3, 2, 1]
    assert ranked[2].mean is None
    assert ranked[2].values == (99.0, None)
    assert ranked[2].p_holm is None
    assert ranked[1].p_holm == ranked[1].p, "one comparison is left, so nothing is adjusted"


# ---- what is kept


def _confirmation(**values: list[float]) -> Confirmation:
    ranked = rank_candidates({int(name[1:]): own for name, own in values.items()}, "max")
    return Confirmation("2x3", "val_accuracy", "max", ({"seed": 1}, {"seed": 2}, {"seed": 3}), tuple(ranked), 7)


def test_confirm_yaml_reads_back_equal(tmp_path: Path) -> None:
    found = _confirmation(t7=[70.0, 72.0, 71.0], t9=[60.0, math.inf, 1.0])
    files = RunFiles(tmp_path)
    assert read_confirmation(files) is None
    files.confirmation.write_text(dump_yaml(found.to_dict()))
    assert read_confirmation(files) == found
    raced = replace(found, asked="race", complete=12)
    files.race.write_text(dump_yaml(raced.to_dict()))
    assert read_confirmation(files) == raced, "it was made with more trials"
    files.race.write_text(dump_yaml(replace(raced, complete=0).to_dict()))
    assert read_confirmation(files) == found


def test_the_conclusion_says_what_the_test_says() -> None:
    alike = _confirmation(t7=[70.0, 75.0, 71.0], t9=[71.0, 70.0, 72.0], t2=[20.0, 24.0, 21.0])
    assert alike.winner == 7
    assert alike.indistinguishable == [9]
    assert "trial 9" in alike.conclusion()
    assert "not distinguishable" in alike.conclusion()
    assert "not distinguishable" in alike.lines()[2]
    assert "not distinguishable" not in alike.lines()[3]
    apart = _confirmation(t7=[70.0, 72.0, 71.0], t9=[60.0, 62.1, 61.0])
    assert apart.conclusion() == "trial 7 is better than each of the others"
    assert "no other" in _confirmation(t7=[1.0, 2.0, 3.0]).conclusion()
    lost = _confirmation(t7=[math.nan, 2.0, 3.0])
    assert lost.winner is None
    assert "diverged" in lost.conclusion()
    assert "diverged" in lost.lines()[1]

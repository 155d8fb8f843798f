"""A search that cannot fit its disk budget is refused before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_search import tiny_plan, tiny_space

from tune_lnl.errors import InputError
from tune_lnl.training.checkpoint import save_checkpoint, write_whole
from tune_lnl.training.heldout import write_heldout
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.registry import start_training
from tune_lnl.tuning.resources.disk import Sizes, check_disk_budget, disk_need, measure_sizes


def test_need_by_hand() -> None:
    need = disk_need(Sizes(checkpoint=300, model=50), concurrent=2, trials=4, epochs=10)
    assert need.total == 2 * 2 * 300 + (3 + 2) * 50 + 4 * 10 * 1200
    confirmed = disk_need(Sizes(checkpoint=300, model=50), concurrent=2, trials=4, epochs=10, confirmed=7)
    assert confirmed.total == need.total + 50 + 7 * 10 * 1200


def test_predictions_take_the_room_that_is_left() -> None:
    need = disk_need(Sizes(checkpoint=300, model=50, heldout=1000), concurrent=2, trials=4, epochs=10)
    # Two trials may write theirs before the worst are deleted.
    assert need.heldout_room(need.total + 6999) == 4
    assert need.heldout_room(need.total) == 0
    assert disk_need(Sizes(300, 50), 2, 4, 10).heldout_room(10**9) == 0


def test_refusal_names_the_numbers_and_a_budget_that_is_enough() -> None:
    need = disk_need(Sizes(checkpoint=3_000_000, model=500_000), concurrent=2, trials=1, epochs=1)
    check_disk_budget(need, need.total)
    with pytest.raises(
        InputError, match=r"(?s)--disk-budget 5 MB .* 2 at once x 2 x 3\.0 MB .*give --disk-budget 15MB"
    ):
        check_disk_budget(need, 5_000_000)
    check_disk_budget(need, 15_000_000)


def test_measured_sizes_are_those_of_real_files(tmp_path: Path) -> None:
    space = tiny_space(tmp_path)
    config = space.config(space.start[0])
    training = start_training(config, Surroundings())
    report = training.run_epoch()
    save_checkpoint(tmp_path / "checkpoint", training, [report])
    write_whole(tmp_path / "model", training.model_file())
    sizes = measure_sizes(config, None)
    assert sizes.checkpoint == pytest.approx((tmp_path / "checkpoint").stat().st_size, rel=0.05)
    while not training.finished:
        training.run_epoch()
    predictions = training.heldout_predictions()
    assert predictions is not None
    write_heldout(tmp_path / "heldout.npz", predictions)
    assert 0.9 * sizes.heldout < (tmp_path / "heldout.npz").stat().st_size <= sizes.heldout
    assert sizes.model == pytest.approx((tmp_path / "model").stat().st_size, rel=0.05)


def test_a_plan_is_refused_with_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="less than this search needs"):
        tiny_plan(tmp_path, name="own", disk_budget="100KB")
    assert not (tmp_path / "results").exists()
    need = tiny_plan(tmp_path, name="own").disk_need
    assert tiny_plan(tmp_path, name="own", disk_budget=f"{need.total + 1}B").disk_need == need
    assert tiny_plan(tmp_path, name="own", confirm="3x5").disk_need.total > need.total


def test_a_plan_says_where_predictions_are_dropped(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, name="own")
    assert plan.heldout_room > 6
    assert not any("held-out" in remark for remark in plan.remarks())
    tight = tiny_plan(tmp_path, name="own", disk_budget=f"{plan.disk_need.total + 1}B")
    assert tight.heldout_room == 0
    assert any("of the best 0 complete trials: --disk-budget" in remark for remark in tight.remarks())

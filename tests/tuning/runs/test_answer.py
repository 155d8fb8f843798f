"""The answer of a run, and that every view gives the same one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tune_lnl.config.yaml import dump_yaml, load_yaml
from tune_lnl.reporting.run_data import view_run
from tune_lnl.reporting.verdict import validation_figure
from tune_lnl.tuning.runs.answer import Answer, find_answer
from tune_lnl.tuning.runs.best import write_best
from tune_lnl.tuning.runs.confirmation import Candidate, Confirmation, read_confirmation
from tune_lnl.tuning.runs.export import export_run
from tune_lnl.tuning.runs.listing import list_runs
from tune_lnl.tuning.runs.rows import TrialRow
from tune_lnl.tuning.runs.run import Run, load_run


def confirm(run: Run, winner: int, probability: float | None) -> Run:
    """Write a confirmation in which ``winner`` comes first."""
    means = {winner: 58.0, 1 - winner if winner < 2 else 0: 57.0}
    candidates = tuple(
        Candidate(rank=place + 1, number=number, values=(mean, mean + 1), mean=mean + 0.5, std=0.7)
        for place, (number, mean) in enumerate(means.items())
    )
    found = Confirmation(
        "2x2", run.metric, run.mode, ({"seed": 1}, {"seed": 2}), candidates, 0, probability=probability
    )
    run.files.write(run.files.confirmation, dump_yaml(found.to_dict()))
    return load_run(run.files.root)


def test_without_more_evidence_the_objective_decides(run: Run) -> None:
    assert run.answer == Answer(0, "objective", None)
    assert json.loads(export_run(run, 1, "json").text)["answer"] == {
        "number": 0,
        "by": "objective",
        "probability": None,
    }


def row(number: int, value: float, lr: float, error: float | None = 2.0) -> TrialRow:
    return TrialRow(number, "COMPLETE", value, error, 6, {"lr": lr}, None, None, 1, 1.0)


@pytest.mark.parametrize(
    ("ahead", "others", "number"),
    [(4.6, 1, 0), (4.7, 1, 1), (7.2, 10, 0), (7.4, 10, 1)],  # 1.645 and 2.576 times the root of 2^2 + 2^2
)
def test_the_published_setting_stays_unless_another_is_distinguishable(
    run: Run, ahead: float, others: int, number: int
) -> None:
    """By hand: the normal quantiles at 0.95 and, for the best of ten, at 0.995."""
    for sign in (1, -1):  # a metric and a loss
        rows = [row(1, 50.0 + sign * ahead, 0.1), row(0, 50.0, 0.01)]
        rows += [row(2 + extra, 50.0 - sign, 0.2) for extra in range(others - 1)]
        answer = find_answer(run.files, rows, {"lr": 0.01})
        assert answer is not None
        assert (answer.number, answer.by, answer.has_highest_objective) == (number, "objective", number == 1)
        assert ("does not tell trial 1 from it" in answer.words) == (number == 0)
        assert find_answer(run.files, rows) == Answer(1, "objective"), "a space without a published setting"
        assert find_answer(run.files, [rows[0], *rows[2:]], {"lr": 0.01}) == Answer(1, "objective"), "it is stopped"
    assert find_answer(run.files, [row(1, 51.0, 0.1, None), row(0, 50.0, 0.01)], {"lr": 0.01}) == Answer(1, "objective")


def test_every_view_shows_the_trial_that_is_best_over_replicates(run: Run, tmp_path: Path) -> None:
    run = confirm(run, 1, 0.75)
    content = json.loads(export_run(run, 1000, "json").text)
    assert content["answer"] == {"number": 1, "by": "replicates", "probability": 0.75}
    assert [trial["number"] for trial in content["trials"]][:2] == [0, 1], "listed by objective all the same"
    write_best(run)
    best = run.files.best.read_text()
    assert load_yaml(best, "best.yaml")["provenance"]["trial"] == 1
    assert "best over its replicates, with probability 0.75" in best
    assert export_run(run, 1, "yaml").text == best
    assert "(trial 1;" in list_runs(tmp_path / "results")[1]
    view = view_run(run)
    assert view.best is not None
    assert view.best.number == 1
    assert "trial 1 is the answer" in validation_figure(view, []).takeaway.lower()


def test_the_published_setting_that_stays_before_a_likelier_trial_says_so(run: Run) -> None:
    stored = confirm(run, 0, 0.11).files.confirmation
    content = load_yaml(stored.read_text(), "confirm.yaml")
    content["table"][1] |= {"better": 0.89, "interval": [-3.3, 0.8], "difference": -1.3}
    stored.write_text(dump_yaml(content))
    answer = load_run(run.files.root).answer
    assert answer is not None
    assert answer.to_dict() == {"number": 0, "by": "replicates", "probability": 0.11}
    assert answer.words == "the published setting; their replicates do not tell trial 1 from it"
    found = read_confirmation(run.files)
    assert found is not None
    assert found.conclusion() == (
        "trial 0, the published setting, stays first: trial 1 is better than it with probability 0.89, "
        "and 0.95 is asked for"
    )


def test_a_trial_that_is_not_complete_cannot_be_the_answer(run: Run) -> None:
    assert confirm(run, 4, None).answer == Answer(0, "objective", None)


def test_a_confirmation_of_an_earlier_version_has_no_probability(run: Run) -> None:
    confirm(run, 1, 0.5)
    content = load_yaml(run.files.confirmation.read_text(), "confirm.yaml")
    del content["probability"]
    run.files.confirmation.write_text(dump_yaml(content))
    assert load_run(run.files.root).answer == Answer(1, "replicates", None)

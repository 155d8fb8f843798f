"""Carrying out ``--confirm KxS``: the replicates of the best trials, then the winner on all the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tune_lnl.config.trial import PROVENANCE
from tune_lnl.config.yaml import dump_yaml
from tune_lnl.metrics.classification import mean_and_std
from tune_lnl.training.loop import objective_so_far, spoken
from tune_lnl.tuning.confirm.replicates import Replicate, Replicates, Result
from tune_lnl.tuning.confirm.statistics import (
    final_config,
    rank_candidates,
    replicate_config,
    replicate_seeds,
)
from tune_lnl.tuning.engine.listeners import StopFlag
from tune_lnl.tuning.engine.messages import Output, StopReason
from tune_lnl.tuning.engine.session import Session
from tune_lnl.tuning.engine.tune import JobOf
from tune_lnl.tuning.plan.options import ConfirmRequest
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.runs.best import provenance
from tune_lnl.tuning.runs.confirmation import Confirmation
from tune_lnl.tuning.runs.location import location
from tune_lnl.tuning.runs.rows import TrialRow
from tune_lnl.tuning.runs.run import Run

Train = Callable[[Session, JobOf], None]
"""Trains the jobs of a session until it is finished or stopped."""


class ConfirmError(RuntimeError):
    """A training failed for a reason that says nothing about its settings."""


def confirm(
    plan: Plan,
    request: ConfirmRequest,
    run: Run,
    output: Output,
    train: Train,
    *,
    room: Callable[[], int],
    working_folder: str | None = None,
    deadline: float | None = None,
) -> Confirmation | StopReason:
    """Confirm the best trials of a finished search, or continue to do so.

    Writes ``confirm.yaml``, ``confirmed.yaml`` and ``confirm/``, and prints the comparison.

    Args:
        room: gives the number of trainings that may run at once.
        working_folder: where workers are to run; ``None``: they start in the driver's.
        deadline: when the time budget ends, in seconds of :data:`tune_lnl.tuning.engine.awake.awake`.

    Returns:
        the reason of the stop if it was stopped.

    Raises:
        ConfirmError: a training failed, or the winner diverged on all the data.
    """
    rows = [row for row in run.rows() if row.state == "COMPLETE"][: request.top]
    if len(rows) < request.top:
        output(f"confirming {len(rows)} trials: no more are complete")
    found: Confirmation | None = None

    def winner_on_all_data(results: Mapping[str, Result]) -> Replicate | None:
        nonlocal found
        found = _compare(request, run, rows, results)
        run.files.write(run.files.confirmation, dump_yaml(found.to_dict()))
        for line in (*found.lines(), found.conclusion()):
            output(line)
        if found.winner is None:
            return None
        row = next(row for row in rows if row.number == found.winner)
        last = Replicate(f"{row.number:03d}-all", final_config(run.config(row)), scores_test=True)
        # Only one model is kept, so only the training that gave it counts as done.
        paths = {path: path.name.partition(".")[0] for path in run.files.listed("confirm")}
        run.files.delete(*(path for path, name in paths.items() if name.endswith("-all") and name != last.name))
        return last

    replicates = Replicates(
        plan,
        [
            Replicate(_name(row, index), replicate_config(run.config(row), index), scores_test=False)
            for row in rows
            for index in range(request.replicates)
        ],
        winner_on_all_data,
        on_error=lambda: session.stop("failing"),
        tell=output.tell,
        working_folder=working_folder,
    )
    session = Session(
        replicates,
        jobs=replicates.total,
        epochs=plan.space.epochs,
        concurrent=room,
        deadline=deadline,
        listeners=[StopFlag(plan.files), replicates],
    )
    if replicates.total():
        output.tell(f"confirming: {replicates.total()} trainings to do, {len(replicates.results)} done")
        train(session, replicates.job)
    # After an interruption a failed training is repeated when the run is resumed: its error may be due to the stop.
    if replicates.error is not None and session.stop_reason in (None, "failing"):
        raise ConfirmError(replicates.error)
    if session.stop_reason is not None:
        return session.stop_reason
    assert found is not None
    if found.winner is None:
        return found
    row = next(row for row in rows if row.number == found.winner)
    return _finish(run, row, replicates.results[f"{row.number:03d}-all"], found, output)


def _compare(
    request: ConfirmRequest, run: Run, rows: Sequence[TrialRow], results: Mapping[str, Result]
) -> Confirmation:
    def objective(result: Result) -> float:
        if "failure" in result:
            return math.nan
        return objective_so_far(run.metric, int(result["config"]["objective.average_last"]), result["reports"])

    values = {
        row.number: [objective(results[_name(row, index)]) for index in range(request.replicates)] for row in rows
    }
    config = run.config(rows[0])
    seeds = tuple(replicate_seeds(replicate_config(config, index)) for index in range(request.replicates))
    candidates = tuple(rank_candidates(values, run.mode))
    return Confirmation(str(request), run.metric, run.mode, seeds, candidates, rows[0].number)


def _name(row: TrialRow, index: int) -> str:
    return f"{row.number:03d}-{index + 1}"


def _finish(run: Run, row: TrialRow, result: Result, found: Confirmation, output: Output) -> Confirmation:
    """Write and print the test accuracy of the winner, trained on all the data."""
    if "failure" in result:
        raise ConfirmError(f"trial {row.number} diverged on all the data ({result['message']}); nothing is confirmed")
    config = final_config(run.config(row))
    metric, epochs = config.settings.test_metrics[0], config.objective.average_last
    mean, std = mean_and_std([report[metric] for report in result["reports"][-epochs:]])
    test = {"mean": mean, "std": std, "epochs": epochs}
    found = replace(found, test=test)
    run.files.write(run.files.confirmation, dump_yaml(found.to_dict()))
    first = found.candidates[0]
    header = (
        f"# Trial {row.number} of run {run.name}, confirmed on {len(found.replicates)} fresh splits, seeds and noises: "
        f"{run.metric} {first.mean:.2f} ± {first.std:.2f}.\n"
        f"# On all the training data: test {spoken(metric)} {mean:.2f}, mean of the last {epochs} epochs.\n"
        "# Train it: python -m tune_lnl.train THIS_FILE\n"
    )
    origin = provenance(run, row) | {
        "fingerprints": result["fingerprints"],
        "confirmed": {"mean": first.mean, "std": first.std, "replicates": len(found.replicates)},
        "test": test,
    }
    run.files.write(run.files.confirmed, header + dump_yaml(config.sections() | {PROVENANCE: origin}))
    output(
        f"trial {row.number} on all the data: test {spoken(metric)} {mean:.2f} ± {std:.2f} over the last {epochs} "
        "epochs, scored once"
    )
    output(f"  confirmed config: {location(run.files.confirmed)}, model: {location(run.files.confirmed_model)}")
    output(f"  best by the search alone stays trial {found.best_of_study}: {location(run.files.best)}")
    return found

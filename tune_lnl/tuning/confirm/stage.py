"""Training the best configs of a finished search again: the race that ends it by default, or ``--confirm KxS``.

Both are rounds of replicates that go through the same engine as trials. They differ in who enters, how many trainings
each gets, and how the results are compared; a confirmation then trains its winner on all the data.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tune_lnl.config.trial import PROVENANCE
from tune_lnl.config.yaml import dump_yaml
from tune_lnl.metrics.classification import mean_and_std
from tune_lnl.training.loop import objective_so_far, spoken
from tune_lnl.tuning.confirm.likely import Likely
from tune_lnl.tuning.confirm.race import Standing, affordable, entrants, hopeful, next_round, stand
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
from tune_lnl.tuning.plan.plan import RACE_TRIALS, Plan
from tune_lnl.tuning.plan.values import ConfirmRequest
from tune_lnl.tuning.runs.best import provenance
from tune_lnl.tuning.runs.confirmation import RACE, Candidate, Confirmation
from tune_lnl.tuning.runs.location import nearby
from tune_lnl.tuning.runs.rows import TrialRow
from tune_lnl.tuning.runs.run import Run

Z95 = 1.959964
"""The normal distribution's 97.5% point."""


@dataclass(frozen=True)
class Trainer:
    """How and for how long replicates are trained."""

    train: Callable[[Session, JobOf], None]
    """Trains the jobs of a session until it is finished or stopped."""
    room: Callable[[], int]
    """Gives the number of trainings that may run at once."""
    working_folder: str | None = None
    """Where workers are to run; ``None``: they start in the driver's."""
    deadline: float | None = None
    """When the time budget ends, in seconds of :data:`tune_lnl.tuning.engine.awake.awake`."""


class ConfirmError(RuntimeError):
    """A training failed for a reason that says nothing about its settings."""


def confirm(
    plan: Plan, request: ConfirmRequest, run: Run, output: Output, trainer: Trainer
) -> Confirmation | StopReason:
    """Confirm the best trials of a finished search, or continue to do so.

    Writes ``confirm.yaml``, ``confirmed.yaml`` and ``confirm/``, and prints the comparison.

    Returns:
        the reason of the stop if it was stopped.

    Raises:
        ConfirmError: a training failed, or the winner diverged on all the data.
    """
    rows = [row for row in run.rows() if row.state == "COMPLETE"][: request.top]
    if len(rows) < request.top:
        output(f"confirming {len(rows)} trials: no more are complete")
    found: Confirmation | None = None

    def winner_on_all_data(results: Mapping[str, Result]) -> Sequence[Replicate]:
        nonlocal found
        if found is not None:
            return ()
        found = _compare(request, run, rows, results)
        run.files.write(run.files.confirmation, dump_yaml(found.to_dict()))
        for line in (*found.lines(), found.conclusion()):
            output(line)
        if found.winner is None:
            return ()
        row = next(row for row in rows if row.number == found.winner)
        last = Replicate(f"{row.number:03d}-all", final_config(run.config(row)), scores_test=True)
        # Only one model is kept, so only the training that gave it counts as done.
        paths = {path: path.name.partition(".")[0] for path in run.files.listed("confirm")}
        run.files.delete(*(path for path, name in paths.items() if name.endswith("-all") and name != last.name))
        return (last,)

    first = [
        Replicate(_name(row, index), replicate_config(run.config(row), index), scores_test=False)
        for row in rows
        for index in range(request.replicates)
    ]
    replicates = _train_rounds(plan, first, winner_on_all_data, output, trainer)
    if not isinstance(replicates, Replicates):
        return replicates
    assert found is not None
    if found.winner is None:
        return found
    row = next(row for row in rows if row.number == found.winner)
    return _finish(run, row, replicates.results[f"{row.number:03d}-all"], found, output)


def race(plan: Plan, run: Run, output: Output, trainer: Trainer) -> Confirmation | StopReason | None:
    """Train the few best configs of a finished search and the published setting again, or continue to do so.

    Writes ``replicates.yaml``, ``replicates.parquet`` and ``confirm/``, and prints the standing.

    Returns:
        ``None`` where the search is too small to afford it; the reason of the stop if it was stopped.

    Raises:
        ConfirmError: a training failed.
    """
    complete = [row for row in run.rows() if row.state == "COMPLETE" and row.value is not None]
    trained = sum(row.epochs for row in run.rows() if row.taken_from is None)
    trainings = affordable(trained, plan.space.epochs)
    if len(complete) < RACE_TRIALS or trainings < 2:
        output(
            f"no replicates: they need {RACE_TRIALS} complete trials (here {len(complete)}) and epochs for 2 trainings "
            f"(here {trainings})\n"
            "the published setting stays the answer unless another is better by more than luck; "
            "--resume --confirm 3x5 trains the best three again"
        )
        return None
    sign = 1.0 if run.mode == "max" else -1.0
    errors = [row.standard_error for row in complete if row.standard_error is not None]
    likely = Likely(
        run.space.parameters,
        [row.params for row in complete],
        [sign * float(row.value or 0.0) for row in complete],
        statistics.median(errors) if errors else None,
    )
    places = {row.number: place for place, row in enumerate(complete)}
    means = likely.means()
    order = sorted(places, key=lambda number: (-means[places[number]], number))
    published = None if run.published is None else run.published.number
    numbers = entrants(order, published, trainings)
    numbers = hopeful(likely.prior([places[number] for number in numbers], numbers), published)
    rows = {number: complete[places[number]] for number in numbers}
    prior = likely.prior([places[number] for number in numbers], numbers)
    # Replicates of a shorter search, before trials were added, have cost their part.
    stems = [path.stem.partition("-r") for path in run.files.listed("confirm") if path.suffix == ".json"]
    trainings -= sum(bool(which) and int(number) not in rows for number, _, which in stems)
    results: Mapping[str, Result] = {}

    def next_replicates(done: Mapping[str, Result]) -> Sequence[Replicate]:
        nonlocal results
        results = dict(done)
        return [
            Replicate(
                f"{number:03d}-r{index}",
                replicate_config(run.config(rows[number]), index - 1, fresh_noise=False),
                scores_test=False,
            )
            for number, index in next_round(prior, _values(run, results, sign), trainings, published)
        ]

    first = next_replicates({})
    if not first:
        return None
    stopped = _train_rounds(plan, first, next_replicates, output, trainer)
    if not isinstance(stopped, Replicates):
        return stopped
    found = _standing(run, rows, stand(prior, _values(run, results, sign), published), results, len(complete))
    run.files.write(run.files.race, dump_yaml(found.to_dict()))
    for line in (*found.lines(), found.conclusion()):
        output(line)
    return found


def _values(run: Run, results: Mapping[str, Result], sign: float) -> dict[int, dict[int, float]]:
    values: dict[int, dict[int, float]] = {}
    for name, result in results.items():
        number, _, index = name.partition("-r")
        values.setdefault(int(number), {})[int(index)] = sign * _objective(run, result)
    return values


def _standing(
    run: Run, rows: Mapping[int, TrialRow], standing: Standing, results: Mapping[str, Result], complete: int
) -> Confirmation:
    """Return the standing of a race in the form of a confirmation."""
    values = _values(run, results, 1.0)
    candidates = []
    for place, number in enumerate([*standing.numbers, *sorted(rows.keys() - set(standing.numbers))]):
        own = [values[number][index] for index in sorted(values.get(number, {}))]
        raced = place < len(standing.numbers)
        difference, deviation = standing.behind[place] if raced and place > 0 else (None, None)
        candidates.append(
            Candidate(
                rank=place + 1,
                number=number,
                values=tuple(value if math.isfinite(value) else None for value in own),
                mean=statistics.fmean(own) if raced else None,
                std=statistics.stdev(own) if raced and len(own) > 1 else None,
                difference=difference,
                interval=None
                if difference is None or deviation is None
                else (difference - Z95 * deviation, difference + Z95 * deviation),
                better=standing.better(place) if raced and place > 0 else None,
            )
        )
    count = max(len(candidate.values) for candidate in candidates)
    config = run.config(next(iter(rows.values())))
    seeds = tuple(replicate_seeds(replicate_config(config, index, fresh_noise=False)) for index in range(count))
    return Confirmation(
        RACE,
        run.metric,
        run.mode,
        seeds,
        tuple(candidates),
        run.rows()[0].number,
        probability=standing.best[0] if standing.best else None,
        complete=complete,
    )


def _train_rounds(
    plan: Plan,
    first: Sequence[Replicate],
    follow_up: Callable[[Mapping[str, Result]], Sequence[Replicate]],
    output: Output,
    trainer: Trainer,
) -> Replicates | StopReason:
    """Train rounds of replicates until there is no further one; return them, or the reason of the stop."""
    replicates = Replicates(
        plan,
        first,
        follow_up,
        on_error=lambda: session.stop("failing"),
        tell=output.tell,
        working_folder=trainer.working_folder,
    )
    session = Session(
        replicates,
        jobs=replicates.total,
        epochs=plan.space.epochs,
        concurrent=trainer.room,
        deadline=trainer.deadline,
        listeners=[StopFlag(plan.files), replicates],
    )
    if replicates.total():
        output.tell(f"training again: {replicates.total()} trainings to do, {len(replicates.results)} done")
        trainer.train(session, replicates.job)
    # After an interruption a failed training is repeated when the run is resumed: its error may be due to the stop.
    if replicates.error is not None and session.stop_reason in (None, "failing"):
        raise ConfirmError(replicates.error)
    return replicates if session.stop_reason is None else session.stop_reason


def _objective(run: Run, result: Result) -> float:
    if "failure" in result:
        return math.nan
    return objective_so_far(run.metric, int(result["config"]["objective.average_last"]), result["reports"])


def _compare(
    request: ConfirmRequest, run: Run, rows: Sequence[TrialRow], results: Mapping[str, Result]
) -> Confirmation:
    values = {
        row.number: [_objective(run, results[_name(row, index)]) for index in range(request.replicates)] for row in rows
    }
    config = run.config(rows[0])
    seeds = tuple(replicate_seeds(replicate_config(config, index)) for index in range(request.replicates))
    candidates = tuple(rank_candidates(values, run.mode))
    complete = sum(row.state == "COMPLETE" for row in run.rows())
    return Confirmation(str(request), run.metric, run.mode, seeds, candidates, rows[0].number, complete=complete)


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
    output(f"  confirmed config: {nearby(run.files.confirmed)}, model: {nearby(run.files.confirmed_model)}")
    output(f"  best by the search alone stays trial {found.best_of_study}: {nearby(run.files.best)}")
    return found

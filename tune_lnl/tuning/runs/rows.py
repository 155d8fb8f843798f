"""One trial as every view shows it, free of Optuna's types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tune_lnl.wording import STATES, state_counts, with_error

if TYPE_CHECKING:
    from tune_lnl.tuning.study.trials import FrozenTrial


@dataclass(frozen=True)
class TrialRow:
    """One trial. Values of accuracy metrics are in percent."""

    number: int
    state: str
    """Name of its state: COMPLETE, PRUNED, FAIL, RUNNING or WAITING."""
    value: float | None
    """Final objective, or the last reported one."""
    standard_error: float | None
    epochs: int
    """Reported ones."""
    params: Mapping[str, Any]
    failure: str | None
    message: str | None
    attempts: int
    seconds: float | None
    """From the first start to the end."""
    taken_from: str | None = None
    """Run and trial number, where another run has made it."""

    @classmethod
    def of(cls, trial: FrozenTrial) -> TrialRow:
        """Return the row of a trial of the study."""
        from tune_lnl.tuning.study import trials as study  # Optuna: not for a row that is read from a file

        attrs = trial.user_attrs
        started, finished, origin = attrs.get(study.STARTED), attrs.get(study.FINISHED), attrs.get(study.TAKEN_FROM)
        return cls(
            number=trial.number,
            state=trial.state.name,
            value=study.last_value(trial),
            standard_error=attrs.get(study.STANDARD_ERROR),
            epochs=len(trial.intermediate_values),
            params=dict(trial.params),
            failure=attrs.get(study.FAILURE),
            message=attrs.get(study.MESSAGE),
            attempts=int(attrs.get(study.ATTEMPTS, 0)),
            seconds=None if started is None or finished is None else float(finished - started),
            taken_from=None if origin is None else f"{origin['run']} trial {origin['number']}",
        )

    @property
    def value_text(self) -> str:
        """``71.25 ± 1.10``, or a dash."""
        return with_error(self.value, self.standard_error)


def describe_states(rows: Sequence[TrialRow]) -> str:
    """Write how many trials are in each state."""
    states = [row.state for row in rows]
    counts = {state: states.count(state) for state in STATES}
    return state_counts(counts, sum(row.taken_from is not None for row in rows))

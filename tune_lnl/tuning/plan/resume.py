"""What a run that goes on has in common with the run that was begun, and how many trials it goes on to."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from tune_lnl.errors import InputError
from tune_lnl.tuning.study.place import StudyPlace
from tune_lnl.tuning.study.study import TAKEN_FROM


def total_trials(asked: str | None, stored: Mapping[str, Any], place: StudyPlace) -> int:
    """How many trials a run has in the end that is continued.

    Args:
        asked: ``--trials`` as given: ``"64"`` in all, ``"+16"`` more; ``None``: as many as before.
        stored: content of its run.yaml.
        place: its study.

    Raises:
        InputError: fewer than it has begun already.
    """
    before = int(stored["space"]["budget"]["trials"])
    if asked is None:
        return before
    if asked.startswith("+"):
        return before + int(asked[1:])
    total = int(asked)
    if total < before:
        begun = sum(_has_begun(trial) for trial in place.read_trials())
        if total < begun:
            raise InputError(
                f"--trials {total} is the total, and this run has begun {begun} trials; leave the flag out to finish "
                f"its {before}, or give {begun} or more, or +N for N more"
            )
    return total


def _has_begun(trial: FrozenTrial) -> bool:
    """Whether this run has trained it; one that is to go on waits, with what it has reported."""
    own = TAKEN_FROM not in trial.user_attrs
    return own and (trial.state != TrialState.WAITING or bool(trial.intermediate_values))


def require_same_search(stored: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse whatever would make it another search; the number of trials may change.

    Args:
        stored: content of the run's run.yaml.
        own: the same as it would be written now, or what is known of it so far.

    Raises:
        InputError: a setting, the seed or the data differ.
    """
    differences = [f"{place} = {before!r}, now it is {now!r}" for place, before, now in _differences(stored, own)]
    if differences:
        raise InputError(
            f"--resume: this run was started with {'; '.join(differences[:3])}\n"
            "give the same flags and data, or another --name"
        )


def resume_command(command: str, total: int) -> str:
    """The command line that continues a run which ``command`` began; a total in it is brought up to date.

    >>> resume_command("python -m tune_lnl.search act_digits8no --trials 4", 12)
    'python -m tune_lnl.search act_digits8no --trials 12 --resume'
    """
    words = shlex.split(command)
    for place, word in enumerate(words):
        if word == "--trials":
            words[place + 1 : place + 2] = [str(total)]
        elif word.startswith("--trials="):
            words[place] = f"--trials={total}"
    return shlex.join(words if "--resume" in words else [*words, "--resume"])


def _differences(stored: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(what, stored, now)."""
    for key in ("space_name", "condition", "seed", "fingerprints"):
        if key in own:
            yield from _unequal(key, stored.get(key), own[key])
    before, now = ({**side["space"], "budget": {**side["space"]["budget"], "trials": None}} for side in (stored, own))
    yield from _unequal("", before, now)


def _unequal(place: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            yield from _unequal(f"{place}.{key}" if place else str(key), before.get(key), now.get(key))
    elif before != now:
        yield place, before, now

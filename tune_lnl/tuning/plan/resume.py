"""The rules of ``--resume``: agreement with the run as it was started, and its new total of trials."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from tune_lnl.config.registry import settings_type
from tune_lnl.errors import InputError, damage_refused
from tune_lnl.tuning.plan.options import FLAGS
from tune_lnl.tuning.plan.values import TrialCount
from tune_lnl.tuning.study.place import StudyPlace
from tune_lnl.tuning.study.trials import TrialState, is_own


def total_trials(asked: TrialCount | None, stored: Mapping[str, Any], place: StudyPlace) -> int:
    """Return the total number of trials of a resumed run.

    Args:
        asked: ``--trials``; ``None``: as many as before.
        stored: content of its run.yaml.
        place: its study.

    Raises:
        InputError: fewer than it has begun already.
    """
    with damage_refused("run.yaml"):
        before = int(stored["space"]["budget"]["trials"])
    if asked is None:
        return before
    if asked.added:
        return before + asked.number
    total = asked.number
    if total < before:
        # A trial that is to continue waits, with its reports.
        begun = sum(
            is_own(trial) and (trial.state != TrialState.WAITING or bool(trial.intermediate_values))
            for trial in place.read_trials()
        )
        if total < begun:
            raise InputError(
                f"--trials {total} is the total, and this run has begun {begun} trials; leave the flag out to finish "
                f"its {before}, or give {begun} or more, or +N for N more"
            )
    return total


def require_same_search(stored: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse any difference that would make it another search; options that may change are not compared.

    Args:
        stored: content of the run's run.yaml.
        own: the same as it would be written now, or the part of it that is known so far.

    Raises:
        InputError: a setting, the seed or the data differ.
    """
    free = {flag.stored for flag in FLAGS.values() if not flag.same_on_resume}
    if "space" in own:
        stored = {**stored, "space": _written_out(stored["space"], own["space"])}
    differences = [
        f"{name.removeprefix('space.')} = {before!r}, now it is {now!r}"
        for key in ("space_name", "condition", "seed", "fingerprints", "space")
        if key in own
        for name, before, now in _unequal(key, stored.get(key), own[key])
        if name not in free
    ]
    if differences:
        raise InputError(
            f"--resume: this run was started with {'; '.join(differences[:3])}\n"
            "give the same flags and data, or another --name"
        )


def _written_out(stored: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored space with defaults for settings that its file left out and that the file of now writes out."""
    fields = settings_type(own["method"]).model_fields if "method" in own else {}
    defaults = {name: field.default for name, field in fields.items() if not field.is_required()}
    left_out = own["fixed"].keys() - stored["fixed"].keys()
    return {**stored, "fixed": {**{name: defaults[name] for name in left_out & defaults.keys()}, **stored["fixed"]}}


def _unequal(name: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted name, before, now) of everything that differs."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            yield from _unequal(f"{name}.{key}", before.get(key), now.get(key))
    elif before != now:
        yield name, before, now


def resume_command(command: str, total: int) -> str:
    """Return the command line that continues a run which ``command`` began, with the run's present total.

    >>> resume_command("python -m tune_lnl.search act_digits8no --trials 4", 12)
    'python -m tune_lnl.search act_digits8no --trials 12 --resume'
    """
    words = shlex.split(command)
    for index, word in enumerate(words):
        if word == "--trials":
            words[index + 1 : index + 2] = [str(total)]
        elif word.startswith("--trials="):
            words[index] = f"--trials={total}"
    return shlex.join(words if "--resume" in words else [*words, "--resume"])

"""Completion of the command line in a shell, by argcomplete: commands, flags, and names of spaces and runs."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import argcomplete


def complete(outer: ArgumentParser, commands: Sequence[str]) -> None:
    """Answer the shell and end this process. Only the parser of the command that is being typed is made.

    Args:
        outer: the parser of ``tune-lnl`` itself.
        commands: its commands.
    """
    line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    first = int(os.environ["_ARGCOMPLETE"])  # words before the arguments: 1, or 3 with python -m tune_lnl
    typed = line.split()
    if line[-1:].isspace():
        typed.append("")
    parser = outer
    if len(typed) > first + 1 and typed[first] in commands:
        parser = import_module(f"tune_lnl.{typed[first]}").parser()
        os.environ["_ARGCOMPLETE"] = str(first + 1)
    completers = {
        "space": space_names,
        "condition": conditions,
        "preset": presets,
        "sampler": samplers,
        "pruner": pruners,
    }
    completers |= dict.fromkeys(("run", "runs", "warm_start"), run_names)
    for action in parser._actions:  # argcomplete itself reads them here; argparse has no public list
        if action.dest in completers:
            action.completer = completers[action.dest]  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


def space_names(**_: Any) -> list[str]:
    from tune_lnl.tuning.space.named import space_files

    return list(space_files())


def run_names(parsed_args: Namespace, **_: Any) -> list[str]:
    folder = Path(getattr(parsed_args, "results_dir", None) or "results")
    found = [path.parent for pattern in ("*/run.yaml", "*/*/run.yaml") for path in folder.glob(pattern)]
    return [path.relative_to(folder).as_posix() for path in found]


def conditions(parsed_args: Namespace, **_: Any) -> list[str]:
    from tune_lnl.tuning.space.space import condition_names

    return condition_names(parsed_args.space) if parsed_args.space else []


def presets(**_: Any) -> Sequence[str]:
    from tune_lnl.tuning.space.space import PRESETS

    return PRESETS


def samplers(**_: Any) -> Sequence[str]:
    from tune_lnl.tuning.space.space import SAMPLERS

    return SAMPLERS


def pruners(**_: Any) -> Sequence[str]:
    from tune_lnl.tuning.space.space import PRUNERS

    return PRUNERS

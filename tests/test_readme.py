"""The commands that README shows exist, with the flags it shows."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tune_lnl import data, export, logs, predict, report, search, train
from tune_lnl.tuning.named_spaces import space_files

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "search": search.parser,
    "export": export.parser,
    "train": train.parser,
    "data": data.parser,
    "logs": logs.parser,
    "predict": predict.parser,
    "report": report.parser,
}
COMMANDS = re.findall(r"^python -m tune_lnl\.(\w+) (.*)$", README, flags=re.MULTILINE)


def test_readme_opens_with_the_two_commands_and_the_first_search() -> None:
    opening = README[: README.index("## Why")]
    assert opening.index("make demo") < opening.index("make test") < opening.index("tune_lnl.search act_cifar80no")


@pytest.mark.parametrize(("door", "arguments"), COMMANDS)
def test_every_command_in_readme_parses(door: str, arguments: str) -> None:
    parsed = PARSERS[door]().parse_args(shlex.split(arguments, comments=True))
    if door == "search" and not (parsed.list or parsed.runs):
        assert parsed.space in space_files()


def test_make_targets_in_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_comparison_of_methods_is_the_reference_result() -> None:
    rows = json.loads((ROOT / "results" / "reference" / "baselines_digits8no.json").read_text())["rows"]
    table = README[README.index("## What ACT buys") : README.index("## Data")]
    told = re.findall(r"^\| .+ \| (\d+\.\d+ ± \d+\.\d+) \| (.+) \|$", table, flags=re.MULTILINE)
    expected = []
    for row in rows.values():
        kept = [f"{row[name]:.1f}" for name in ("selection_precision", "selection_recall") if name in row]
        expected.append((f"{row['mean']:.2f} ± {row['std']:.2f}", " / ".join(kept) or "all of them"))
    assert told == expected

"""The door `python -m tune_lnl.data` itself; what it prints is tested with the room behind it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tune_lnl.data import main


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom tune_lnl.data import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'pyarrow', 'sklearn'} & set(sys.modules)\n"
        "raise SystemExit(sorted(heavy) or 0)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "check" in finished.stdout


def test_runs_as_a_module() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "tune_lnl.data", "list"], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "digits8no" in finished.stdout


@pytest.mark.parametrize("arguments", [[], ["chekc"], ["check"]])
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


def test_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tune_lnl.datasets.check.list_datasets", interrupted)
    assert main(["list"]) == 130
    assert "interrupted" in capsys.readouterr().err

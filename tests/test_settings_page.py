"""docs/settings.md and docs/commands.md agree with the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import Field

from tune_lnl.config.base import Settings
from tune_lnl.config.registry import DATASETS, METHODS, settings_type
from tune_lnl.datasets.registry import get_dataset

SCRIPT = Path(__file__).parents[1] / "docs" / "make_settings.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_settings", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_agree_with_the_code(script: ModuleType) -> None:
    stale = [path.name for path, text in script.pages().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run: make docs"


def test_check_names_a_stale_page(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.md").write_text("# Every setting\n")
    (tmp_path / "commands.md").write_text(script.commands_page())
    monkeypatch.setattr(script, "HERE", tmp_path)
    assert script.main(["--check"]) == 1
    assert capsys.readouterr().err == "settings.md is not what the code says; run: make docs\n"
    assert script.main([]) == 0
    assert script.main(["--check"]) == 0


def test_no_setting_is_left_out(script: ModuleType) -> None:
    page = script.settings_page()
    for method in METHODS:
        settings = settings_type(method)
        for name in (*settings.model_fields, *settings.knobs):
            assert f"| `{name}` |" in page
    for dataset in DATASETS:
        for name in get_dataset(dataset).Options.model_fields:
            assert f"| `dataset.{name}` |" in page


def test_the_row_of_a_setting(script: ModuleType) -> None:
    class Inner(Settings):
        """A group."""

        file: str = Field(min_length=1, description="a path")

    class Example(Settings):
        """An example."""

        share: float = Field(0.5, gt=0, le=1, description="a | b")
        count: int = Field(ge=1, json_schema_extra={"unit": "epochs"}, description="how many")
        source: Inner | None = Field(None, description="from where")

    assert script.fields_table(Example.model_fields, "x.") == [
        "| setting | values | default | what it is |",
        "| --- | --- | --- | --- |",
        "| `x.share` | number, > 0, ≤ 1 | `0.5` | a \\| b |",
        "| `x.count` | whole number, ≥ 1 | required | how many (scales with `--epochs`) |",
        "| `x.source` | [{file}](#inner) or `null` | `null` | from where |",
        "",
    ]

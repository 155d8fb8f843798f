from __future__ import annotations

import pytest

from tune_lnl.trainables import training


@pytest.fixture(autouse=True)
def _emulated_bf16_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the processor has no bf16 torch emulates it: slower, which users are told, but good for tests."""
    monkeypatch.setattr(training, "has_bf16", lambda device: True)

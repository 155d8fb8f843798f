"""Networks that torch compiles."""

from __future__ import annotations

import shutil

import pytest
import torch
from tiny_runs import start, tiny, weights

from tune_lnl.trainables.training import CPP_COMPILERS


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", *CPP_COMPILERS))), reason="no C++ compiler here")
def test_compiled_networks_learn_the_same_and_carry_on_uncompiled() -> None:
    torch.compiler.reset()
    # Without dropout: compiled, it draws other random numbers.
    plain, compiled = start(tiny("act")), start(tiny("act", compile="default"))
    first, again = plain.run_epoch(), compiled.run_epoch()
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0, "nothing was compiled"
    assert weights(compiled).keys() == weights(plain).keys()
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], value, rtol=1e-3, atol=1e-4)
    assert first.keys() == again.keys()

    later = start(tiny("act"))
    later.load_state_dict(compiled.state_dict())
    assert later.run_epoch()["epoch"] == 1.0

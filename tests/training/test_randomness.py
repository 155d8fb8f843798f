"""Random streams are a function of (seed, epoch, purpose)."""

from __future__ import annotations

import itertools

import pytest
import torch

from tune_lnl.training.randomness import stream, stream_seed


def test_every_argument_matters_and_all_are_within_63_bits() -> None:
    purposes = ("data order", "dropout", "weak augmentation", "weights", "weights_ntm")
    seeds = [stream_seed(*args) for args in itertools.product(range(20), range(20), purposes)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_use_the_whole_range() -> None:
    # Fair bits: with 2,000 draws the share of ones of each stays within 5 standard deviations of a half.
    seeds = [stream_seed(seed, 3, "data order") for seed in range(2000)]
    for bit in range(63):
        assert sum(seed >> bit & 1 for seed in seeds) == pytest.approx(1000, abs=112)


def test_a_seed_beyond_64_bits_is_taken() -> None:
    assert stream_seed(10**30, 0, "dropout") != stream_seed(10**30 + 1, 0, "dropout")


def test_seeds_stay_what_they_were() -> None:
    # Golden: another value would silently change every published number.
    assert stream_seed(0, 0, "data order") == 5613288100574761181
    assert stream_seed(3, 17, "dropout") == 5227435125308203016


def test_a_stream_starts_afresh_and_ignores_the_global_state() -> None:
    first = torch.rand(5, generator=stream(1, 2, "data order"))
    torch.manual_seed(0)
    torch.rand(3)
    assert torch.equal(torch.rand(5, generator=stream(1, 2, "data order")), first)
    assert not torch.equal(torch.rand(5, generator=stream(1, 3, "data order")), first)


def test_making_a_stream_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    stream(1, 2, "data order")
    assert torch.equal(torch.get_rng_state(), before)

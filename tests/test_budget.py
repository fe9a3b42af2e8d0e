"""The estimate of the memory of a step, and what activation checkpointing saves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from hodor.models.hodor import HODOR
from hodor.models.weights import MODELS
from hodor.training import budget
from hodor.training.budget import GIB, Budget, Meter, available, check, estimate, explained, in_use, ran_out
from hodor.training.losses import compute_loss
from hodor.training.plans import cyclic, dense, rollout

CPU = torch.device("cpu")


def test_the_meter_counts_live_tensors_and_their_peak() -> None:
    x, weight = torch.randn(100, 100), torch.randn(100, 100, requires_grad=True)
    with Meter() as meter:
        product = x @ weight
        assert meter.now == 40_000
        view = product.view(-1).relu().sum()
        assert meter.now == 2 * 40_000 + 4
        product = None
        view.backward()
        assert meter.peak == 2 * 40_000 + 8  # what relu keeps, its gradient, two sums
        view = None
    assert meter.now == 40_000  # the gradient


def played(network: HODOR, plan: object) -> tuple[int, dict[str, Tensor]]:
    """The peak memory of a step, in bytes, and its gradients."""
    torch.manual_seed(3)
    clip = tiny.clip()
    with Meter() as meter:
        compute_loss(rollout(network, clip, plan)).total.backward()  # type: ignore[arg-type]
    return meter.peak, {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("plan", [dense(3), cyclic(3)], ids=["dense", "cyclic"])
def test_checkpointing_gives_the_same_gradients_for_less_memory(plan: object) -> None:
    """With dropout, whose random numbers have to be the same when they are recomputed."""
    peak, expected = played(tiny.network(encoder_layers=2, decoder_layers=3, dropout=0.2).train(), plan)
    network = tiny.network(encoder_layers=2, decoder_layers=3, dropout=0.2).train()
    network.checkpoint_activations()
    less, found = played(network, plan)
    assert less < 0.7 * peak
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-6 * float(gradient.abs().max()) + 1e-12)


@pytest.mark.parametrize("name", ["hodor-t", "hodor-lite"])
def test_every_large_block_of_a_preset_is_checkpointed(name: str) -> None:
    network = MODELS[name].network(**MODELS[name].settings)
    network.checkpoint_activations()
    wrapped = {n for n, m in network.named_modules() if "forward" in vars(m)}
    stages = (
        ("backbone.layers.2.blocks.5", "backbone.layers.0.downsample")
        if name == "hodor-t"
        else ("backbone.stem", "backbone.blocks.7")
    )
    assert {*stages, "pyramid", "encoder.layers.1", "decoder.layers.2", "decoder.catch_all"} <= wrapped
    assert "refine" in vars(network.decoder)


def test_the_estimate_grows_with_the_pixels_and_finds_what_no_gradient_reaches() -> None:
    network = tiny.network(conditioning="none")

    def play(clip: object) -> Tensor:
        return compute_loss(rollout(network, clip, dense(3))).total  # type: ignore[arg-type]

    small = estimate(network, play, 3, 2, (64, 96), 1)
    large = estimate(network, play, 3, 2, (640, 960), 4)
    assert large.clip == pytest.approx(100 * small.clip, rel=0.3)
    assert large.need == large.fixed + 4 * large.clip
    assert small.idle == ("encoder.layers.0.cross_attn.scaling_factors",)
    assert all(p.grad is None for p in network.parameters())
    size = sum(p.nbytes for p in network.parameters())
    assert 5 * size <= small.fixed < 5.2 * size  # weights, gradients, two moments, average


def test_the_estimate_is_the_memory_of_a_step() -> None:
    """For a clip three times as large as the probe."""
    network = tiny.network()

    def play(clip: object) -> Tensor:
        return compute_loss(rollout(network, clip, dense(3))).total  # type: ignore[arg-type]

    estimated = estimate(network, play, 3, 2, (192, 448), 1)
    with Meter() as meter:
        play(budget._waves(3, 2, (192, 448))).backward()
    gradients = sum(p.grad.nbytes for p in network.parameters() if p.grad is not None)
    assert meter.peak - gradients < estimated.clip * 1.05
    assert estimated.clip < meter.peak * 1.05
    assert gradients < 0.05 * meter.peak


def test_the_advice_names_numbers_that_fit() -> None:
    eight = Budget(fixed=GIB, clip=2 * GIB, clips=8)
    words = eight.advice(10 * GIB, parts=1, checkpoint=False)
    assert (
        words == "lower it with --accumulate 2 (4 at once, about 9.0 GiB), or --checkpoint (less than half of the activations)"
    )
    one = Budget(fixed=GIB, clip=8 * GIB, clips=1)
    assert (
        one.advice(3 * GIB, parts=8, checkpoint=True)
        == "lower it with a smaller --data.size to 50% of each side, or fewer --frames"
    )
    assert "--accumulate 6 (1 at once" in Budget(GIB, GIB, 3).advice(2 * GIB, parts=2, checkpoint=True)


def test_a_step_that_fits_is_accepted_and_one_that_does_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "available", lambda device: 10 * GIB)
    check(Budget(GIB, GIB, 9), CPU, 1, False)
    with pytest.raises(
        ValueError,
        match=r"^expected about 11\.0 GiB \(1\.0 GiB for weights and optimiser, 1\.0 GiB for each of 10 clips at once\) free",
    ):
        check(Budget(GIB, GIB, 10), CPU, 1, False)
    monkeypatch.setattr(budget, "available", lambda device: None)
    check(Budget(GIB, GIB, 10**6), CPU, 1, False)


def test_only_memory_running_out_is_explained() -> None:
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")):
        assert ran_out(error)
    with pytest.raises(RuntimeError) as refusal:
        torch.empty(2**55, dtype=torch.uint8)
    assert ran_out(refusal.value)
    with pytest.raises(RuntimeError, match=r"^shapes do not agree$"), explained(Budget(1, 1, 1), CPU, 1, False):
        raise RuntimeError("shapes do not agree")
    with pytest.raises(ValueError, match=r"^out of memory on cpu"), explained(Budget(1, 1, 1), CPU, 1, False):
        raise MemoryError


def test_the_free_memory_of_this_machine_is_plausible() -> None:
    free = available(CPU)
    if Path("/proc/meminfo").exists():
        total = int(re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024  # type: ignore[index]
        assert free is not None
        assert 0 < free < total
        assert 10 * 2**20 < in_use(CPU) < total

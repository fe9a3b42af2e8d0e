"""GroupNorm trains on small channels-last maps of a frozen backbone, with the gradients of contiguous maps."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from hodor.models.layers import GroupNorm
from hodor.models.memory_blocks import Levels

CHILD = """
import torch
from hodor.models.memory_blocks import Levels
torch.manual_seed(0)
maps = [torch.randn(1, c, 28 >> i, 56 >> i).to(memory_format=torch.channels_last) for i, c in enumerate((24, 40, 112))]
levels = Levels((24, 40, 112), normed=True)
sum((x ** 3).sum() for x in levels(maps)).backward()
for norm, x in zip(levels, maps):
    plain = torch.nn.GroupNorm(1, x.shape[1])
    (plain(x.contiguous()) ** 3).sum().backward()
    for own, expected in ((norm.weight, plain.weight), (norm.bias, plain.bias)):
        torch.testing.assert_close(own.grad, expected.grad, rtol=1e-4, atol=1e-2)
print("equal")
"""


def test_small_maps_of_a_frozen_backbone_train() -> None:
    """In a process of its own: torch's GroupNorm ends the process here."""
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr


@pytest.mark.parametrize("size", [(8, 12), (64, 72)])
def test_the_values_are_those_of_torch(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16, *size).to(memory_format=torch.channels_last)
    own, plain = GroupNorm(4, 16), nn.GroupNorm(4, 16)
    assert own.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(own(x), plain(x))
    assert not own.requires_grad_(False)(x).requires_grad
    taught = x.clone().requires_grad_()
    GroupNorm(4, 16)(taught).sum().backward()
    assert taught.grad is not None


def test_every_network_uses_the_norm_that_trains() -> None:
    for norm in Levels((8, 16, 24, 32), normed=True).modules():
        assert not isinstance(norm, nn.GroupNorm) or isinstance(norm, GroupNorm)

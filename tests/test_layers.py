"""Convolutions whose gradients are made by hand have those of torch."""

import pytest
import torch
from torch import nn

from hodor.models.layers import Depthwise


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)])
@pytest.mark.parametrize("size", [(11, 14), (10, 13)])
@pytest.mark.parametrize("half", [False, True])
def test_gradients_of_a_depthwise_convolution(kernel: int, stride: int, size: tuple[int, int], half: bool) -> None:
    rng = torch.Generator().manual_seed(kernel)
    ours = Depthwise(6, 6, kernel, stride, kernel // 2 if stride == 1 else 0, groups=6, bias=False)
    x = torch.randn(2, 6, *size, generator=rng)
    wanted = None
    found = []
    for forward in (nn.Conv2d.forward, Depthwise.forward):
        ours.zero_grad()
        x = x.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = forward(ours, x)
        wanted = torch.randn(y.shape, generator=rng) if wanted is None else wanted
        y.backward(wanted.to(y.dtype))  # type: ignore[no-untyped-call]
        assert x.grad is not None
        assert ours.weight.grad is not None
        found.append((y.detach(), x.grad, ours.weight.grad.clone()))
    for theirs, own in zip(*found, strict=True):
        assert own.dtype == theirs.dtype
        torch.testing.assert_close(own, theirs, rtol=0.03 if half else 1e-4, atol=0.05 if half else 1e-5)


def test_a_depthwise_convolution_without_gradients_of_its_kernel_is_the_plain_one() -> None:
    ours = Depthwise(4, 4, 5, 1, 2, groups=4, bias=False).requires_grad_(False)
    x = torch.rand(1, 4, 6, 7, requires_grad=True)
    out = ours(x)
    assert torch.equal(out, nn.Conv2d.forward(ours, x))
    assert "Depthwise" not in type(out.grad_fn).__name__

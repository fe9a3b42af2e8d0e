"""The interface of backbones, and layers that the networks share: frozen batch norm, folding, fast products.

A backbone computes feature maps at strides 4, 8, 16 and 32, finest first, from images [B, 3, H, W] that are normalised by its
own `mean` and `std`.
"""

import copy
from functools import partial
from itertools import pairwise
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Module = TypeVar("Module", bound=nn.Module)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """Base class of backbones: images [B, 3, H, W] in, one feature map per stride out, finest first.

    The caller normalises and pads. A map has ceil(H / stride) x ceil(W / stride) cells.

    Attributes:
        channels: channels of each map.
        strides: stride of each map.
        mean: mean of RGB in [0, 1]. Default: that of ImageNet.
        std: standard deviation of RGB in [0, 1]. Default: that of ImageNet.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def parts(self) -> list[list[nn.Module]]:
        """Return the modules of each output: `parts()[i]` runs after output i-1 and up to output i."""
        raise NotImplementedError

    def until(self, stride: int) -> Self:
        """Remove the layers and weights after the output at a stride.

        Args:
            stride: stride of the last output to keep.

        Returns:
            The backbone.

        Raises:
            ValueError: "expected a stride of 4, 8, 16, 32, got 6".
            ValueError: "SwinTiny cannot end at stride 16: use a ResNet or an EfficientNet-Lite".
        """
        if stride not in self.strides:
            raise ValueError(f"expected a stride of {', '.join(map(str, self.strides))}, got {stride}")
        self._end(self.strides.index(stride) + 1)
        return self

    def _end(self, outputs: int) -> None:
        """Keep this many outputs and their layers."""
        raise ValueError(
            f"{type(self).__name__} cannot end at stride {self.strides[outputs - 1]}: use a ResNet or an EfficientNet-Lite"
        )

    def heavy(self) -> list[nn.Module]:
        """Return the modules of `parts()` that have submodules; lists and sequences are flattened."""

        def flat(module: nn.Module) -> list[nn.Module]:
            if isinstance(module, (nn.ModuleList, nn.Sequential)):
                return [block for child in module for block in flat(child)]
            return [module] if any(True for _ in module.children()) else []

        return [block for modules in self.parts() for module in modules for block in flat(module)]

    def freeze(self, stride: int) -> Self:
        """Train only the layers after the output at a stride; the frozen layers record no graph.

        Args:
            stride: stride of the last frozen output: 0 trains everything, 32 nothing.

        Returns:
            The backbone.

        Raises:
            ValueError: "expected a stride of 0, 4, 8, 16, 32, got 2".
        """
        if stride not in (0, *self.strides):
            raise ValueError(f"expected a stride of {', '.join(map(str, (0, *self.strides)))}, got {stride}")
        for output, modules in zip(self.strides, self.parts(), strict=True):
            for module in modules:
                module.requires_grad_(output > stride)
        return self


def recompute(module: nn.Module, method: str = "forward") -> None:
    """Store only the inputs of a method in training, and run it again in the backward pass, with the same random numbers.

    Args:
        module: the module, changed in place.
        method: name of the method. Default: "forward".
    """
    setattr(module, method, partial(checkpoint, getattr(module, method), use_reentrant=False))


class StoredNorm(nn.BatchNorm2d):
    """Batch norm that always uses its stored statistics, in training too; scale and shift are trained.

    The clips of a video batch are too few and too similar to estimate statistics from.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__(channels, eps=eps)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)


class FrozenNorm(StoredNorm):
    """Batch norm whose scale, shift and statistics are all constants, as in Detectron: buffers, without counters.

    Args:
        channels: channels of the input.
        eps: added to the variance. Default: 0, as in Detectron.
    """

    def __init__(self, channels: int, eps: float = 0.0):
        super().__init__(channels, eps=eps)
        scale, shift = self.weight.detach(), self.bias.detach()
        del self.weight, self.bias
        self.register_buffer("weight", scale)
        self.register_buffer("bias", shift)
        self.num_batches_tracked = None
        self.track_running_stats = False


class Linear(nn.Linear):
    """nn.Linear that, without gradients in float32 on a CPU, multiplies with oneDNN.

    The default library uses only a part of an AMD processor's peak performance, oneDNN nearly all of it. Where the operator is
    missing, the default one is used.
    """

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """Compute F.linear with the faster library (see `Linear`).

    Args:
        x: input, [..., D].
        weight: weight.
        bias: bias, or None.
        activation: "none", or "gelu" (exact) applied to the result. Default: "none".
    """
    plain = torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.float32 or not x.numel()
    if _onednn is None or plain or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
        plain_out = F.linear(x, weight, bias)
        return F.gelu(plain_out) if activation == "gelu" else plain_out
    out: Tensor = _onednn(x.contiguous(), weight, bias, activation, [], "none" if activation == "gelu" else "")
    return out


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm that trains on a channels-last input without gradients, such as the map of a frozen backbone.

    On a CPU, torch's backward pass of small channels-last maps (up to about 2,000 cells) writes the gradient of the input also
    when there is none to write, which ends the process. So such an input gets a gradient, which nothing uses. No value changes.
    """

    def forward(self, x: Tensor) -> Tensor:
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        if trains and not x.requires_grad and x.device.type == "cpu" and not torch.compiler.is_compiling():
            x = x.detach().requires_grad_()
        return super().forward(x)


class Depthwise(nn.Conv2d):
    """A depthwise convolution (as many groups as channels) whose gradients take a quarter of the time on a CPU.

    oneDNN has no vector code for the gradient of kernels wider than 3, nor, in bfloat16, of strides. So the gradient of the
    kernel is computed 3 columns at a time, and that of the input, for strides, as a convolution of the gradient with zeros
    inserted between its cells.
    """

    def forward(self, x: Tensor) -> Tensor:
        wide, strided = self.kernel_size[1] > 3, self.stride[0] > 1
        if not (wide or strided) or x.device.type != "cpu" or not self.weight.requires_grad or not torch.is_grad_enabled():
            return super().forward(x)
        if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
            return super().forward(x)
        if torch.is_autocast_enabled("cpu"):
            kind = torch.get_autocast_dtype("cpu")
            x, weight = x.to(kind), self.weight.to(kind)
        else:
            weight = self.weight
        if strided and x.dtype != torch.bfloat16:
            return super().forward(x)
        with exactly(x):
            out: Tensor = _Depthwise.apply(x, weight, self.stride[0], self.padding[0])  # type: ignore[no-untyped-call]
        return out


class _Depthwise(torch.autograd.Function):
    """See `Depthwise`; kernels and strides are the same on both axes, there is no bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding, size = ctx.stride, ctx.padding, weight.shape[-1]
        grad = grad.contiguous(memory_format=torch.channels_last)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            rows, columns = (n + 2 * padding - size + 1 for n in x.shape[-2:])
            spread = grad
            if stride > 1:
                spread = grad.new_zeros(*grad.shape[:2], rows, columns).contiguous(memory_format=torch.channels_last)
                spread[..., ::stride, ::stride] = grad
            of_x = F.conv2d(spread, weight.flip(-1, -2), None, 1, size - 1 - padding, 1, len(weight))
        if ctx.needs_input_grad[1]:
            padded = F.pad(x, (padding, padding))
            wide = (grad.shape[-1] - 1) * stride
            parts = []
            for start in range(0, size, 3):
                some = weight[..., start : start + 3].contiguous()
                seen = padded[..., start : start + wide + some.shape[-1]]
                args = (None, (stride, stride), (padding, 0), (1, 1), False, (0, 0), len(weight), (False, True, False))
                parts.append(torch.ops.aten.convolution_backward(grad, seen, some, *args)[1])
            of_weight = torch.cat(parts, -1)
        return of_x, of_weight, None, None


def exactly(like: Tensor) -> torch.autocast:
    """Return a context in which autocast is off, for computations that need more precision than the 8 bits of bfloat16."""
    return torch.autocast(like.device.type, enabled=False)


def double(x: Tensor) -> Tensor:
    """Double maps [B, D, H, W] bilinearly, corners not aligned: F.interpolate(x, scale_factor=2, mode="bilinear").

    Without gradients on a CPU the result is interpolated along rows and then columns in channels-last memory. F.interpolate
    takes longer and returns a map whose memory format the next convolution has to convert.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
    return _spread(_spread(x.permute(0, 2, 3, 1), 1), 2).permute(0, 3, 1, 2)


def _spread(x: Tensor, axis: int) -> Tensor:
    """Double the length along an axis; each new cell is a quarter of a cell away from the nearest old one."""
    length = x.shape[axis]
    out = x.new_empty([2 * s if i == axis else s for i, s in enumerate(x.shape)])
    near, far = x.narrow(axis, 0, length - 1), x.narrow(axis, 1, length - 1)
    between = out.narrow(axis, 1, 2 * length - 2).unflatten(axis, (length - 1, 2))
    torch.lerp(near, far, 0.25, out=between.select(axis + 1, 0))
    torch.lerp(near, far, 0.75, out=between.select(axis + 1, 1))
    out.select(axis, 0).copy_(x.select(axis, 0))
    out.select(axis, 2 * length - 1).copy_(x.select(axis, length - 1))
    return out


_onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def fold(module: Module) -> Module:
    """Return a copy whose batch norms are folded into the convolutions before them, in channels-last memory format.

    Exact for stored statistics: w' = w g / sqrt(var + eps), b' = (b - mean) g / sqrt(var + eps) + beta. A norm is folded into
    the convolution that was registered just before it in the same parent. The copy has other parameter names (a bias per
    convolution, no norms), so save weights before folding.

    Args:
        module: the module.
    """
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        children = list(parent.named_children())
        for (_, conv), (name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                _fold_pair(conv, norm)
                setattr(parent, name, nn.Identity())
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@torch.no_grad()
def _fold_pair(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    scale: Tensor = norm.weight / torch.sqrt(var + norm.eps)
    trained = conv.weight.requires_grad
    bias = torch.zeros_like(mean) if conv.bias is None else conv.bias
    conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=trained)
    conv.bias = nn.Parameter((bias - mean) * scale + norm.bias, requires_grad=trained)

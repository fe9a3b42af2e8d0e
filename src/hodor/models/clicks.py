"""A network that segments one object of a picture from clicks, a box and a previous mask.

    picture --frozen trunk of xmem-lite--> maps at strides 2 to 32 --neck--> maps at strides 2, 4, 8 and 16       view
    view, prompts --> attention at stride 16 --> up to stride 4 --> logits at stride 2, predicted IoU             forward

The maps of a picture do not depend on the prompts, so that they are computed once a picture. The trunk is that of the bundled
`xmem-lite`; a file of clicks has only the neck and the decoder. Prompts follow RITM (Sofiiuk et al., 2021): discs of positive
and negative clicks and the previous mask as planes; a box is one more plane. The name of a tensor ends in its axes (see
`base`), K being clicks. Coordinates are (x, y) in pixels of the view; the centre of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.models import state_dicts, weights
from hodor.models.efficientnet import EfficientNetLite
from hodor.models.layers import GroupNorm, StoredNorm, double

RADIUS = 5.0
"""Radius of the disc of a click, in pixels of the view."""
REACH = 40.0
"""Distance in pixels of the view over which the nearness of a click falls to 1/e."""
MULTIPLE = 32
"""Both sides of a view are multiples of this."""
PLANES = 4
"""Planes of the prompts: positive discs, negative discs, box, previous mask."""


class View(NamedTuple):
    """The maps of pictures, finest first, after the neck: strides 2, 4, 8 and 16."""

    maps: tuple[Tensor, Tensor, Tensor, Tensor]

    def rows(self, index: Tensor) -> View:
        """Return the maps with these rows of the batch, to give one picture several prompts."""
        return View(tuple(x[index] for x in self.maps))  # type: ignore[arg-type]


class Prompts(NamedTuple):
    """The prompts of a batch.

    Attributes:
        points_BK2: clicks (x, y) in pixels of the view.
        labels_BK: 1 foreground, 0 background, -1 for no click.
        boxes_B4: boxes (x0, y0, x1, y1) in pixels of the view; all zeros for no box.
        previous_B1HW: previous soft mask in [0, 1] at stride 4; zeros for none.
    """

    points_BK2: Tensor
    labels_BK: Tensor
    boxes_B4: Tensor
    previous_B1HW: Tensor


class Answer(NamedTuple):
    """What the network answers.

    Attributes:
        logits_B1HW: at stride 2.
        coarse_B1HW: at stride 4, before the sharpening.
        iou_B: logit of the predicted IoU of the mask with the object.
    """

    logits_B1HW: Tensor
    coarse_B1HW: Tensor
    iou_B: Tensor


def distances(points_BK2: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Return the distance of each cell's centre of a map to each point, [B, K, height, width] in pixels of the view."""
    x = (torch.arange(width, device=points_BK2.device) + 0.5) * stride
    y = (torch.arange(height, device=points_BK2.device) + 0.5) * stride
    dx_BKW = x - points_BK2[..., :1]
    dy_BKH = y - points_BK2[..., 1:]
    return (dx_BKW[:, :, None] ** 2 + dy_BKH[..., None] ** 2).sqrt()


def draw(prompts: Prompts, height: int, width: int) -> Tensor:
    """Return the planes of prompts at stride 4, in [0, 1], [B, PLANES, height, width]; the edge of a disc is smooth."""
    disc_BKHW = ((RADIUS - distances(prompts.points_BK2, height, width, 4)) / 4 + 0.5).clamp(0, 1)
    discs = [(disc_BKHW * (prompts.labels_BK == label)[..., None, None]).amax(1) for label in (1, 0)]
    spans = []
    for low, high, count in ((0, 2, width), (1, 3, height)):
        start = torch.arange(count, device=prompts.boxes_B4.device) * 4.0
        low_B1, high_B1 = prompts.boxes_B4[:, low, None], prompts.boxes_B4[:, high, None]
        spans.append((torch.minimum(start + 4, high_B1) - torch.maximum(start, low_B1)).clamp(0, 4) / 4)
    box_BHW = spans[1][:, :, None] * spans[0][:, None]
    planes = torch.cat([torch.stack([*discs, box_BHW], 1), prompts.previous_B1HW], 1)
    return planes.contiguous(memory_format=torch.channels_last)


class Residual(nn.Module):
    """GroupNorm, then two 3x3 convolutions that are added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = GroupNorm(1, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.normal_(self.second.weight, std=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.relu(self.first(F.relu(self.norm(x)))))
        return out


class Attention(nn.Module):
    """A transformer layer over the cells of a map; a depthwise convolution in its perceptron gives it positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.after = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 2 * width)
        self.local = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        batch, width, height, columns = x_BDHW.shape
        x_BPD = x_BDHW.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.before(x_BPD)).view(batch, -1, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        read_BPD = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, -1, width)
        x_BPD = x_BPD + self.out(read_BPD)
        wide_BPD = F.gelu(self.widen(self.after(x_BPD)))
        map_BDHW = wide_BPD.transpose(1, 2).unflatten(2, (height, columns))
        wide_BPD = (map_BDHW + self.local(map_BDHW)).flatten(2).transpose(1, 2)
        out: Tensor = (x_BPD + self.narrow(wide_BPD)).transpose(1, 2).unflatten(2, (height, columns))
        return out


class Neck(nn.Module):
    """The maps of the trunk at strides 2 to 32 -> maps at strides 2, 4, 8 and 16, coarse maps added to finer ones."""

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(StoredNorm(c) for c in channels)
        self.sides = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(channels, [*widths, widths[-1]], strict=True))
        self.downs = nn.ModuleList(nn.Conv2d(widths[i + 1], widths[i], 1) for i in range(len(widths) - 1))
        self.blocks = nn.ModuleList(Residual(w) for w in widths[1:])

    def forward(self, maps: Sequence[Tensor]) -> View:
        sides = [side(norm(x)) for side, norm, x in zip(self.sides, self.norms, maps, strict=True)]
        x = self.blocks[-1](sides[-2] + double(sides[-1]))
        found = [x]
        for i in (2, 1):
            x = self.blocks[i - 1](sides[i] + double(self.downs[i](x)))
            found.insert(0, x)
        return View((sides[0] + double(self.downs[0](x)), *found))


class ClickNetwork(nn.Module):
    """Segments one object from clicks, a box and a previous mask; see the module.

    Args:
        trunk: the frozen trunk; its weights are not part of the state dict.
        widths: channels at strides 2, 4, 8 and 16. Default: (16, 32, 64, 128).
        layers: transformer layers at stride 16. Default: 3.
        heads: attention heads. Default: 4.
    """

    def __init__(
        self, trunk: EfficientNetLite, *, widths: Sequence[int] = (16, 32, 64, 128), layers: int = 3, heads: int = 4
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"widths": list(widths), "layers": layers, "heads": heads}
        self._trunk = (trunk.eval().requires_grad_(False),)  # in a tuple, so that it is no submodule
        tiny, fine, middle, coarse = widths
        self.neck = Neck((16, *trunk.channels), widths)
        self.prompt4 = nn.Conv2d(PLANES, fine, 3, padding=1)
        self.prompt8 = nn.Conv2d(fine, middle, 3, stride=2, padding=1)
        self.clicked8 = nn.Conv2d(4, middle, 1)
        self.prompt16 = nn.Conv2d(middle, coarse, 3, stride=2, padding=1)
        self.match = nn.Conv2d(middle, 32, 1)
        self.layers = nn.ModuleList(Attention(coarse, heads) for _ in range(layers))
        self.up8, self.block8 = nn.Conv2d(coarse, middle, 1), Residual(middle)
        self.up4, self.block4 = nn.Conv2d(middle, fine, 1), Residual(fine)
        self.head4 = nn.Conv2d(fine, 1, 1)
        self.up2 = nn.Conv2d(fine, tiny, 1)
        self.sharpen = nn.Conv2d(tiny, tiny, 3, padding=1)
        self.head2 = nn.Conv2d(tiny, 1, 1)
        self.iou = nn.Sequential(nn.Linear(2 * coarse + 3, coarse), nn.ReLU(), nn.Linear(coarse, 1))
        nn.init.constant_(self.head4.bias, -2.0)  # type: ignore[arg-type]
        nn.init.zeros_(self.head2.weight)
        nn.init.zeros_(self.head2.bias)  # type: ignore[arg-type]

    @property
    def trunk(self) -> EfficientNetLite:
        """The frozen trunk."""
        return self._trunk[0]

    @torch.no_grad()
    def trunk_maps(self, pictures_BCHW: Tensor) -> list[Tensor]:
        """Return the trunk's maps at strides 2, 4, 8, 16 and 32.

        Args:
            pictures_BCHW: RGB in [0, 1], sides that are multiples of `MULTIPLE`.
        """
        trunk = self.trunk
        mean = pictures_BCHW.new_tensor(trunk.mean).view(3, 1, 1)
        std = pictures_BCHW.new_tensor(trunk.std).view(3, 1, 1)
        x = trunk.stem(((pictures_BCHW - mean) / std).contiguous(memory_format=torch.channels_last))
        maps = []
        for i, block in enumerate(trunk.blocks):
            x = block(x)
            if i in (trunk.repeats[0] - 1, *trunk.taps):
                maps.append(x)
        return maps

    def view(self, pictures_BCHW: Tensor) -> View:
        """Compute what depends on the pictures only. Arguments: see `trunk_maps`."""
        view: View = self.neck(self.trunk_maps(pictures_BCHW))
        return view

    def clicked(self, map_BDHW: Tensor, prompts: Prompts) -> Tensor:
        """Return the similarity of each cell at stride 8 to the clicked cells, and its nearness to the clicks, [B, 4, H, W].

        The largest of the positive clicks, then of the negative ones; 0 where there is none.
        """
        height, width = map_BDHW.shape[-2:]
        embedded_BDHW = F.normalize(self.match(map_BDHW), dim=1)
        scale = prompts.points_BK2.new_tensor([width * 8, height * 8])
        grid_BK12 = (prompts.points_BK2 / scale * 2 - 1)[:, :, None]
        at_BDK = F.grid_sample(embedded_BDHW, grid_BK12, padding_mode="border", align_corners=False)[..., 0]
        same_BKHW = torch.einsum("bdk,bdhw->bkhw", at_BDK, embedded_BDHW) + 1
        near_BKHW = (-distances(prompts.points_BK2, height, width, 8) / REACH).exp()
        planes = [
            (each * (prompts.labels_BK == label)[..., None, None]).amax(1)
            for each in (same_BKHW, near_BKHW)
            for label in (1, 0)
        ]
        return torch.stack(planes, 1).contiguous(memory_format=torch.channels_last)

    def forward(self, view: View, prompts: Prompts) -> Answer:
        """Segment the object of each row.

        Args:
            view: maps of the pictures, one row a prompt.
            prompts: the prompts; at least one column of clicks, which can be -1.
        """
        map2, map4, map8, map16 = view.maps
        prompt4 = F.relu(self.prompt4(draw(prompts, *map4.shape[-2:])))
        prompt8 = F.relu(self.prompt8(prompt4) + self.clicked8(self.clicked(map8, prompts)))
        x16 = map16 + self.prompt16(prompt8)
        for layer in self.layers:
            x16 = layer(x16)
        x8 = self.block8(map8 + prompt8 + double(self.up8(x16)))
        x4 = self.block4(map4 + prompt4 + double(self.up4(x8)))
        coarse = self.head4(x4)
        x2 = F.relu(map2 + double(self.up2(x4)))
        logits = double(coarse) + self.head2(F.relu(self.sharpen(x2)))
        return Answer(logits, coarse, self._predicted_iou(x16, logits))

    def _predicted_iou(self, x16: Tensor, logits: Tensor) -> Tensor:
        """Logit of the IoU, from the map at stride 16 inside and outside the mask and how decided the mask is."""
        soft = logits.detach().sigmoid()
        soft16 = F.avg_pool2d(soft, 8)
        area = soft.mean((1, 2, 3))
        inside = (x16 * soft16).mean((2, 3)) / (area[:, None] + 1e-4)
        won = (soft > 0.5).float()
        sure = (soft * won).mean((1, 2, 3)) / (won.mean((1, 2, 3)) + 1e-6)
        unsure = (soft * (1 - won)).mean((1, 2, 3)) / (area + 1e-4)
        facts = torch.stack([sure, unsure, area.sqrt()], 1)
        iou: Tensor = self.iou(torch.cat([inside, x16.mean((2, 3)), facts], 1))[:, 0]
        return iou


def load_trunk(name_or_path: str | Path = "xmem-lite") -> EfficientNetLite:
    """Return the trunk of a weights file of a network on an EfficientNet-Lite that ends at stride 32, folded.

    Args:
        name_or_path: see `hodor.load`. Default: "xmem-lite".

    Raises:
        FileNotFoundError, ValueError: as `hodor.load`.
        ValueError: "expected weights with an EfficientNet-Lite up to stride 32, got FILE: ...".
    """
    trunk = weights.load(name_or_path).backbone
    if not isinstance(trunk, EfficientNetLite) or trunk.strides[-1] != 32:
        raise ValueError(
            f"expected weights with an EfficientNet-Lite up to stride 32, got {name_or_path}: give those of xmem-lite"
        )
    return trunk


def save_clicks(network: ClickNetwork, path: str | Path, **provenance: Any) -> None:
    """Write neck and decoder in float16, with settings and provenance, as one safetensors file.

    Args:
        network: the network.
        path: file to write.
        **provenance: further plain values for the metadata.
    """
    from safetensors.torch import save as to_bytes

    half = {
        name: (x.half() if x.is_floating_point() else x).detach().cpu().contiguous() for name, x in network.state_dict().items()
    }
    about = {"model": "clicks", "size": 0, "settings": network.settings, **provenance}
    weights.write_atomically(Path(path), to_bytes(half, {"hodor": json.dumps(about, sort_keys=True)}))


def load_clicks(path: str | Path | None = None, trunk: str | Path = "xmem-lite") -> ClickNetwork:
    """Load a network of clicks that is ready to use, in evaluation mode without gradients.

    Args:
        path: file that `save_clicks` wrote. Default: the bundled weights.
        trunk: file, or name of bundled weights, from which the trunk is taken. Default: "xmem-lite".

    Raises:
        FileNotFoundError: "no file PATH: ...".
        ValueError: "expected weights of clicks, got FILE, which has those of xmem-lite: ..."; "FILE does not fit the network:
            ..."; "expected finite weights, got FILE, ..."; "FILE contains a network that this version cannot build: ...".
    """
    source = Path(str(files("hodor") / "weights" / "clicks.safetensors")) if path is None else Path(path)
    about, state = weights.read(source)
    if about["model"] != "clicks":
        raise ValueError(
            f"expected weights of clicks, got {source}, which has those of {about['model']}: give a file of hodor.train_clicks"
        )
    settings = about["settings"]
    largest = max((side for x in state.values() for side in x.shape), default=0)
    try:
        widths, layers, heads = [int(w) for w in settings["widths"]], int(settings["layers"]), int(settings["heads"])
        if max(widths) > largest or not 0 <= layers <= len(state) or min(*widths, heads) < 1 or widths[-1] % heads:
            raise ValueError(f"its settings {settings} are not those of its tensors")
        network = ClickNetwork(load_trunk(trunk), widths=widths, layers=layers, heads=heads)
    except (TypeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{source} contains a network that this version cannot build: {reason}") from None
    if problems := state_dicts.problems(state, network.state_dict()):
        raise ValueError(f"{source} does not fit the network: {problems}")
    if bad := state_dicts.not_finite(state):
        raise ValueError(
            f"expected finite weights, got {source}, in which {bad}: give weights from before the training diverged"
        )
    own = network.state_dict()
    network.load_state_dict({name: x.to(own[name].dtype) for name, x in state.items()})
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

"""Networks by name, and weights files that are enough to rebuild a network: they also store its settings and provenance."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hodor.files import parse_json
from hodor.masks import written_whole
from hodor.models import state_dicts
from hodor.models.base import Network
from hodor.models.cutie import Cutie
from hodor.models.hodor import HODOR
from hodor.models.model import Model
from hodor.models.stcn import STCN
from hodor.models.xmem import XMem


@dataclass(frozen=True)
class Preset:
    """What a model name stands for.

    Args:
        network: the class.
        settings: arguments of the class that differ from its defaults.
        size: short side of the frame inside the network, in pixels.
        remembers: number of frames that a `Tracker` remembers. Default: that of the class.
    """

    network: type[Network]
    settings: Mapping[str, Any]
    size: int
    remembers: int | None = None

    @property
    def history(self) -> int:
        """Number of frames that a `Tracker` remembers."""
        return self.network.history if self.remembers is None else self.remembers


MODELS: dict[str, Preset] = {
    "hodor-t": Preset(HODOR, {}, 512),
    "hodor-lite": Preset(
        HODOR,
        {
            "backbone": "efficientnet-lite1",
            "width": 128,
            "heads": 4,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "pooling": "soft",
            "feature_positions": True,
            "start_pooled": True,
            "fine_conv": False,
        },
        352,
    ),
    "cutie": Preset(Cutie, {}, 480),
    "cutie-small": Preset(Cutie, {"backbone": "resnet18"}, 480),
    "cutie-lite": Preset(
        Cutie,
        {
            "backbone": "efficientnet-lite1",
            "width": 128,
            "heads": 4,
            "feedforward_width": 512,
            "mask_encoder": "light",
            "normed": True,
        },
        352,
    ),
    "stcn": Preset(STCN, {}, 480),
    "stcn-lite": Preset(STCN, {"backbone": "efficientnet-lite1", "value_width": 128, "mask_encoder": "light"}, 352),
    "xmem": Preset(XMem, {}, 480),
    "xmem-lite": Preset(
        XMem,
        {
            "backbone": "efficientnet-lite1",
            "value_width": 128,
            "decoder_width": 128,
            "mask_encoder": "light",
            "normed": True,
            "context": True,
            "mem_every": 3,
        },
        416,
        remembers=7,
    ),
}


ENTRY_POINTS = "hodor.models"
"""Group of entry points under which an installed distribution offers presets of its own, each under the preset's name."""


def names() -> list[str]:
    """Return the names of all models: those of this package, then those of installed distributions."""
    return list(dict.fromkeys([*MODELS, *_offered()]))


def build(name: str, **changes: Any) -> Network:
    """Build a network by its name, with fresh weights.

    Args:
        name: a name in `MODELS`, or one that an installed distribution offers as an entry point of the group `hodor.models`.
        **changes: settings that replace those of the preset.

    Raises:
        ValueError: "expected a model name (hodor-t, hodor-lite, ...), got 'hodor-x'".
        ValueError: "expected entry point hodor.models 'x' to be a Preset, got int".
    """
    preset = _preset(name)
    return _made(name, {**preset.settings, **changes}, preset.size)


def _offered() -> dict[str, EntryPoint]:
    """The presets of installed distributions by name; none is imported."""
    return {each.name: each for each in entry_points(group=ENTRY_POINTS)}


def _preset(name: str) -> Preset:
    if name in MODELS:
        return MODELS[name]
    offered = _offered()
    if name not in offered:
        raise ValueError(f"expected a model name ({', '.join(names())}), got {name!r}")
    preset = offered[name].load()
    if not isinstance(preset, Preset):
        raise ValueError(f"expected entry point {ENTRY_POINTS} {name!r} to be a Preset, got {type(preset).__name__}")
    return preset


def _made(name: str, settings: Mapping[str, Any], size: int) -> Network:
    preset = _preset(name)
    network = preset.network(**settings)
    network.name, network.size = name, size
    if preset.remembers is not None:
        network.history = preset.remembers
    return network


def save(network: Model, path: str | Path, *, half: bool = False, new_folder: bool = True, **provenance: Any) -> None:
    """Write weights, name, size, settings, calibration, tracking and provenance as one safetensors file.

    The file is written under another name and then renamed, so that a partial file is never left.

    Args:
        network: the network, not folded.
        path: file to write.
        half: whether to store float16, half the size; the weights are read as float32. Default: False.
        new_folder: see `hodor.masks.written_whole`. Default: True.
        **provenance: further plain values (recipe, commit ...) for the metadata.

    Raises:
        ValueError: "the network is folded: load it with folded=False to save it".
    """
    if network.folded:
        raise ValueError("the network is folded: load it with folded=False to save it")
    kind = {torch.float32: torch.float16} if half else {}
    state = {k: v.detach().to("cpu", kind.get(v.dtype, v.dtype)).contiguous() for k, v in network.state_dict().items()}
    _write(Path(path), network.about() | provenance, state, new_folder)


def restate(
    source: str | Path,
    out: str | Path,
    *,
    size: int | None = None,
    calibration: tuple[float, float] | None = None,
    settings: Mapping[str, Any] | None = None,
    tracking: Mapping[str, Any] | None = None,
) -> None:
    """Write the same weights with other metadata; what is not named here stays as it is.

    Args:
        source: file to read.
        out: file to write; it can be `source`.
        size: short side of the frame inside the network, in pixels.
        calibration: slope and offset of the confidence.
        settings: the settings that change.
        tracking: those of `history`, `pin_first` and `hold_lost` that change, see `Network.set_tracking`.

    Raises:
        FileNotFoundError, ValueError: as `load`, before anything is written: "FILE contains a network that this version cannot
            build: expected mem_every of at least 1, got 0".
    """
    about, state = read(source)
    new = {"size": size, "calibration": calibration, "settings": {**about["settings"], **(settings or {})}}
    if tracking:
        new["tracking"] = {**about.get("tracking", {}), **tracking}
    about |= {key: value for key, value in new.items() if value is not None}
    fill(_described(about, source), state, str(source))
    _write(Path(out), about, state)


def interpolate(start: str | Path, end: str | Path, out: str | Path, share: float) -> None:
    """Write the linear interpolation of two weights files of the same network.

    It has much of what fine-tuning gained and little of what it lost, in one network.

    Args:
        start: file before fine-tuning.
        end: file after fine-tuning. The metadata, the precision and all integers of the result are those of this file.
        out: file to write; its metadata also has `interpolated`, with the share and the metadata of `start`.
        share: position between the two: 0 is `start`, 1 is `end`.

    Raises:
        FileNotFoundError, ValueError: as `load`.
        ValueError: "expected a share in [0, 1], got 1.2".
        ValueError: "START and END are not of the same network: width 128 and 192".

    Source: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, equation 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share in [0, 1], got {share}")
    (before, first), (about, second) = read(start), read(end)
    one, other = _described(before, start), _described(about, end)
    facts = [{"model": network.name, **network.settings} for network in (one, other)]
    different = [key for key in sorted({*facts[0], *facts[1]}) if facts[0].get(key) != facts[1].get(key)]
    if different:
        pairs = "; ".join(f"{key} {facts[0].get(key)} and {facts[1].get(key)}" for key in different)
        raise ValueError(f"{start} and {end} are not of the same network: {pairs}")
    fill(one, first, str(start))
    fill(other, second, str(end))
    mixed = {
        key: first[key].float().lerp(value.float(), share).to(value.dtype) if value.is_floating_point() else value
        for key, value in second.items()
    }
    _write(Path(out), {**about, "interpolated": {"share": share, "start": before}}, mixed)


def _write(path: Path, about: Mapping[str, Any], state: Mapping[str, Tensor], new_folder: bool = True) -> None:
    from safetensors.torch import save as to_bytes

    write_atomically(path, to_bytes(dict(state), {"hodor": json.dumps(about, sort_keys=True)}), new_folder)


def load(name_or_path: str | Path = "xmem-lite", *, device: str | torch.device = "cpu", folded: bool = True) -> Network:
    """Load a network that is ready to track.

    The file alone rebuilds its network; nothing in it is executed.

    Args:
        name_or_path: name of a model with bundled weights, or a .safetensors file that `save` wrote. Default: "xmem-lite".
        device: device of the weights, as for `pick_device`. Default: "cpu".
        folded: whether to merge batch norms into their convolutions, which is the same function and faster. False leaves the
            weights as they are in the file, to train or save them. Default: True.

    Returns:
        The network in evaluation mode, without gradients.

    Raises:
        FileNotFoundError: "no bundled weights for 'hodor-t': ..."; "no file PATH: ...".
        ValueError: "FILE is not a safetensors file ..."; "FILE does not state which network it contains ..."; "FILE does not
            fit the network: ..." with all keys that are missing, unexpected or of another shape; "device 'x' cannot be used
            ...".
    """
    place = pick_device(device) if isinstance(device, str) else device
    about, state = read(name_or_path)
    check_sizes(about.get("settings"), state, name_or_path)
    network = _described(about, name_or_path)
    fill(network, state, str(name_or_path))
    if folded:
        network.fold()
    return network.to(place, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload, no-any-return]


def check_sizes(settings: Any, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise ValueError for settings of a much larger network than the tensors are of: building it would fill the memory."""
    largest = max((side for tensor in state.values() for side in tensor.shape), default=0)
    for name, value in settings.items() if isinstance(settings, dict) else ():
        limit = len(state) if name.endswith(("layers", "blocks")) else largest if name in ("grid", "classes") else None
        limit = 4 * largest if "width" in name else limit
        for each in value if isinstance(value, list) else [value]:
            if limit is not None and isinstance(each, int) and each > limit:
                raise ValueError(f"{source} does not fit the network: its {name} of {each} is too large for its tensors")


UNBUILDABLE = (
    TypeError, ValueError, KeyError, AttributeError, OverflowError, RuntimeError, ZeroDivisionError, AssertionError, IndexError,
)  # fmt: skip
"""What the metadata of a damaged or hostile file can raise when its network is built."""


def unbuildable(source: str | Path, error: Exception) -> ValueError:
    """Return the error for a file whose metadata do not describe a network of this version."""
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__} "
    reason = kind + " ".join(str(error).split())[:200]
    return ValueError(f"{source} contains a network that this version cannot build: {reason}")


def _described(about: Mapping[str, Any], source: str | Path) -> Network:
    """The network that a file's metadata describes, with fresh weights."""
    if about.get("finds") is True:
        advice = "load it with hodor.models.finders.load"
        raise ValueError(f"expected weights of a network that tracks, got {source}, which finds objects: {advice}")
    try:
        # a setting that a file lacks has the default of the class, not the value of the preset, which can have changed since
        network = _made(about["model"], about["settings"], int(about["size"]))
        slope, offset = about.get("calibration", Network.calibration)
        network.calibration = float(slope), float(offset)
        network.set_tracking(**about.get("tracking", {}))
    except UNBUILDABLE as error:
        raise unbuildable(source, error) from None
    return network


def pick_device(device: str = "auto") -> torch.device:
    """Choose a device.

    Args:
        device: "auto" for a CUDA GPU, an Apple GPU or else the CPU; any other value is the device itself, which is tested.
            Default: "auto".

    Raises:
        ValueError: "device 'cuda' cannot be used (...): give auto, cpu, cuda, cuda:1 or mps".
    """
    if device != "auto":
        try:
            return torch.zeros(1, device=device).device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"device {device!r} cannot be used ({reason}): give auto, cpu, cuda, cuda:1 or mps") from None
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def ready(name_or_path: str | Path, *, device: str = "auto", dtype: str = "auto") -> Network:
    """Load a network and move it to a device in a precision that is fast there.

    Args:
        name_or_path: see `load`.
        device: see `pick_device`. Default: "auto".
        dtype: "float32", "bfloat16", or "auto" for bfloat16 where the device multiplies in it and float32 elsewhere.
            Default: "auto".
    """
    place = pick_device(device)
    network = load(name_or_path, device=place)
    if dtype == "auto":
        dtype = "bfloat16" if place.type == "cuda" or (place.type == "cpu" and _cpu_has_bfloat16()) else "float32"
    if dtype == "bfloat16":
        network.to(torch.bfloat16)
    return network


def _cpu_has_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def read(name_or_path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a weights file without building its network.

    Args:
        name_or_path: see `load`.

    Returns:
        The metadata, with settings under their present names, and the tensors by name.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(name_or_path)
    if str(name_or_path) in MODELS:
        path = Path(str(files("hodor") / "weights" / f"{name_or_path}.safetensors"))
    if not path.is_file():
        known = names()
        if str(name_or_path) in known:
            raise FileNotFoundError(
                f"no bundled weights for {str(name_or_path)!r}: train it, or convert the authors' file with "
                "`hodor convert`, and give the file's path"
            )
        raise FileNotFoundError(f"no file {path}: give a .safetensors file, or one of {', '.join(known)}")
    try:
        with safe_open(str(path), "pt") as opened:
            about = (opened.metadata() or {}).get("hodor", "null")
            state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        if state_dicts.is_run_file(path):
            raise ValueError(state_dicts.run_line(path)) from None
        raise ValueError(
            f"{path} is not a safetensors file ({str(error)[:100]}): convert a .pth file with `hodor convert`"
        ) from None
    with contextlib.suppress(ValueError):
        about = parse_json(about)
    if not isinstance(about, dict) or not {"model", "settings", "size"} <= about.keys():
        raise ValueError(f"{path} does not state which network it contains: give a file that this package wrote")
    model = about["model"]
    if isinstance(about["settings"], dict) and isinstance(model, str) and (model in MODELS or model in _offered()):
        about["settings"] = _preset(about["model"]).network.current_settings(about["settings"])
    return about, state


def fill(network: Model, state: Mapping[str, Tensor], source: str) -> None:
    """Load all weights into a network, or none.

    Args:
        network: the network.
        state: tensors by name; a prefix such as "module." before all of them is ignored (`state_dicts.unwrapped`).
        source: name of their file, for the message.

    Raises:
        ValueError: "FILE does not fit the network: missing a; unexpected b; c is (7,), expected (32,)", of at most some
            300 characters.
        ValueError: "expected finite weights, got FILE, in which 3 of 120 tensors hold NaN or infinity (first: a): give ...".
    """
    state = check_fit(network, state, source)
    if bad := state_dicts.not_finite(state):
        advice = "give weights from before the training diverged"
        raise ValueError(f"expected finite weights, got {source}, in which {bad}: {advice}")
    own = network.state_dict()
    network.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()})


def check_fit(network: Model, state: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
    """Return the state under the network's names; raise ValueError, as `fill` does, if names or shapes are others."""
    own = network.state_dict()
    if state.keys() != own.keys():
        plain = state_dicts.unwrapped(state)
        state = plain if len(plain.keys() & own.keys()) > len(state.keys() & own.keys()) else state
    if problems := state_dicts.problems(state, own):
        raise ValueError(f"{source} does not fit the network: {problems}")
    return state


def begin_from(network: Model, path: str | Path) -> None:
    """Load the weights of a file into a network that was built by its name.

    Args:
        network: the network.
        path: see `load`.

    Raises:
        FileNotFoundError, ValueError: as `load`; "expected weights of xmem-lite, got FILE, which has those of hodor-lite: ...".
    """
    about, state = read(path)
    try:
        fill(network, state, str(path))
    except ValueError as error:
        if about["model"] == network.name or "does not fit" not in str(error):
            raise
        advice = f"give weights of {network.name}, or train {about['model']}"
        raise ValueError(
            f"expected weights of {network.name}, got {path}, which has those of {about['model']}: {advice}"
        ) from None


def write_atomically(path: Path, data: bytes, new_folder: bool = True) -> None:
    """Write a file under another name, flush it to the disk and rename it.

    Whatever interrupts this, the path has the old file or the complete new one.

    Args:
        path: file to write.
        data: its content.
        new_folder: see `hodor.masks.written_whole`. Default: True.
    """
    with written_whole(path, new_folder) as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def weights_hash(network: Model) -> str:
    """Return the SHA-256 of a network's weights, wherever they were read from.

    Names and values of the state dict, as float32, in its order. A network with folded normalisations has another hash
    than the same network unfolded.

    Args:
        network: any network.

    Returns:
        64 hexadecimal digits, as `run.json` stores them.
    """
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

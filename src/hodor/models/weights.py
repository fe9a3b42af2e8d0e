"""Networks by name, and files that rebuild a network alone: settings and provenance travel with the weights."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hodor.masks import written_whole
from hodor.models.base import Network
from hodor.models.cutie import Cutie
from hodor.models.hodor import HODOR
from hodor.models.stcn import STCN
from hodor.models.xmem import XMem


@dataclass(frozen=True)
class Preset:
    """A network by name: its class, its settings, the short side at which it works inside, in pixels; remembers: how many
    frames it remembers where nobody says so (None: as many as its class)."""

    network: type[Network]
    settings: Mapping[str, Any]
    size: int
    remembers: int | None = None

    @property
    def history(self) -> int:
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


def build(name: str, **changes: Any) -> Network:
    """A network by its preset's name, with fresh weights; `changes` replace settings.

    Raises ValueError: "no model 'hodor-x': want hodor-t, hodor-lite".
    """
    preset = _preset(name)
    return _made(name, {**preset.settings, **changes}, preset.size)


def _preset(name: str) -> Preset:
    if name not in MODELS:
        raise ValueError(f"no model {name!r}: want {', '.join(MODELS)}")
    return MODELS[name]


def _made(name: str, settings: Mapping[str, Any], size: int) -> Network:
    preset = _preset(name)
    network = preset.network(**settings)
    network.name, network.size = name, size
    if preset.remembers is not None:
        network.history = preset.remembers
    return network


def save(network: Network, path: str | Path, *, half: bool = False, **provenance: Any) -> None:
    """Weights, name, settings, calibration and provenance (recipe, commit ...) as one safetensors file, whole or not at all.

    half: in float16, half the size; they are read back as float32. Raises ValueError: "the network is folded: load it with
    folded=False to save it".
    """
    if network.folded:
        raise ValueError("the network is folded: load it with folded=False to save it")
    kind = {torch.float32: torch.float16} if half else {}
    state = {k: v.detach().to("cpu", kind.get(v.dtype, v.dtype)).contiguous() for k, v in network.state_dict().items()}
    about = {"model": network.name, "size": network.size, "settings": network.settings, **provenance}
    if network.calibration != Network.calibration:
        about["calibration"] = network.calibration
    _write(Path(path), about, state)


def restate(
    source: str | Path,
    out: str | Path,
    *,
    size: int | None = None,
    calibration: tuple[float, float] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the same weights again with another size inside, calibration or settings; all else that the file says stays.

    settings: only those that change. Raises as `load`, before anything is written: "FILE holds a network that this version
    cannot build: mem_every is 0, want at least 1".
    """
    about, state = read(source)
    new = {"size": size, "calibration": calibration, "settings": {**about["settings"], **(settings or {})}}
    about |= {key: value for key, value in new.items() if value is not None}
    fill(_told(about, source), state, str(source))
    _write(Path(out), about, state)


def interpolate(start: str | Path, end: str | Path, out: str | Path, share: float) -> None:
    """Write weights that lie between two files, `share` of the way from start to end: much of what a fine-tuning gave, little
    of what it lost, in one network (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, equation 1).

    Facts are those of `end`; `interpolated` adds the share and what start said of itself. Precision and integers are end's.
    Raises as `load`, and ValueError: "share is 1.2: want 0 to 1", "START and END are not one network: width 128 and 192".
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}: want 0 to 1")
    (before, first), (about, second) = read(start), read(end)
    one, other = _told(before, start), _told(about, end)
    facts = [{"model": network.name, **network.settings} for network in (one, other)]
    unlike = [key for key in sorted({*facts[0], *facts[1]}) if facts[0].get(key) != facts[1].get(key)]
    if unlike:
        told = "; ".join(f"{key} {facts[0].get(key)} and {facts[1].get(key)}" for key in unlike)
        raise ValueError(f"{start} and {end} are not one network: {told}")
    fill(one, first, str(start))
    fill(other, second, str(end))
    mixed = {
        key: first[key].float().lerp(value.float(), share).to(value.dtype) if value.is_floating_point() else value
        for key, value in second.items()
    }
    _write(Path(out), {**about, "interpolated": {"share": share, "start": before}}, mixed)


def _write(path: Path, about: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save as to_bytes

    write_atomically(path, to_bytes(dict(state), {"hodor": json.dumps(about, sort_keys=True)}))


def load(name_or_path: str | Path = "xmem-lite", *, device: str | torch.device = "cpu", folded: bool = True) -> Network:
    """A network ready to track: by name with the weights in the box, or from a .safetensors file that `save` wrote.

    The file rebuilds its network alone; nothing in it is executed. folded: batch norms are merged into their convolutions,
    which is the same function, quicker; False leaves the weights as they are in the file, to train or save again.

    Raises FileNotFoundError: "no weights for 'hodor-t' in the box: ...". Raises ValueError, in one line: "FILE is not a
    safetensors file ...", "FILE does not say which network it holds ...", and the keys that are missing, unexpected or
    misshapen.
    """
    about, state = read(name_or_path)
    network = _told(about, name_or_path)
    fill(network, state, str(name_or_path))
    if folded:
        network.fold()
    return network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload, no-any-return]


def _told(about: Mapping[str, Any], source: str | Path) -> Network:
    """The network that a file speaks of, with fresh weights."""
    try:
        # what a file does not say is as the class has it, and not as the preset, which may have changed since
        network = _made(about["model"], about["settings"], int(about["size"]))
        slope, offset = about.get("calibration", Network.calibration)
        network.calibration = float(slope), float(offset)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} holds a network that this version cannot build: {error}") from None
    return network


def pick_device(device: str = "auto") -> torch.device:
    """ "auto": a CUDA GPU, an Apple GPU, else the CPU; any other word is the device itself, tried out.

    Raises ValueError: "device 'cuda' cannot be used (...): want auto, cpu, cuda, cuda:1 or mps".
    """
    if device != "auto":
        try:
            return torch.zeros(1, device=device).device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"device {device!r} cannot be used ({reason}): want auto, cpu, cuda, cuda:1 or mps") from None
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def ready(name_or_path: str | Path, *, device: str = "auto", dtype: str = "auto") -> Network:
    """`load`, then to the device and precision that serve best: bfloat16 where the device multiplies in it, else float32."""
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
    """-> what the file, or the file in the box of that name, says of itself, and its tensors. Errors as `load`."""
    from safetensors import SafetensorError, safe_open

    path = Path(name_or_path)
    if str(name_or_path) in MODELS:
        path = Path(str(files("hodor") / "weights" / f"{name_or_path}.safetensors"))
        if not path.is_file():
            raise FileNotFoundError(
                f"no weights for {str(name_or_path)!r} in the box: train it, or convert the authors' file with "
                "`hodor convert`, and give the file's path"
            )
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: want a .safetensors file, or one of {', '.join(MODELS)}")
    try:
        with safe_open(str(path), "pt") as opened:
            about = (opened.metadata() or {}).get("hodor", "null")
            state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error}): convert a .pth file with `hodor convert`") from None
    with contextlib.suppress(json.JSONDecodeError):
        about = json.loads(about)
    if not isinstance(about, dict) or not {"model", "settings", "size"} <= about.keys():
        raise ValueError(f"{path} does not say which network it holds: want a file written by hodor")
    if isinstance(about["settings"], dict) and about["model"] in list(MODELS):
        about["settings"] = MODELS[about["model"]].network.current_settings(about["settings"])
    return about, state


def fill(network: Network, state: Mapping[str, Tensor], source: str) -> None:
    """Load every weight, or name in one line all that is missing, unexpected or misshapen and load nothing."""
    want = network.state_dict()
    problems = [f"missing {k}" for k in want if k not in state]
    problems += [f"unexpected {k}" for k in state if k not in want]
    problems += [
        f"{k} is {tuple(state[k].shape)}, want {tuple(want[k].shape)}"
        for k in want
        if k in state and state[k].shape != want[k].shape
    ]
    if problems:
        raise ValueError(f"{source} does not fit the network: {'; '.join(problems)}")
    network.load_state_dict({k: v.to(want[k].dtype) for k, v in state.items()})


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside, flush to the disk, then rename: the old file or the new one, never half, whatever is cut off."""
    with written_whole(path) as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def weights_hash(network: Network) -> str:
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

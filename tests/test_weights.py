"""Files that are enough to rebuild a network, and the authors' files, read without executing anything in them."""

from __future__ import annotations

import builtins
import inspect
import json
import os
import pickle
import struct
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from golden_rules import fill, keys
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import hodor
from hodor.commands import options
from hodor.models import released, weights
from hodor.models.base import Network
from hodor.models.hodor import HODOR
from hodor.models.weights import MODELS, Preset, write_atomically

CHANGES = {"grid": 2, "catch_all": False, "pooling": "soft", "feature_positions": True}


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "tiny" is a model like the others, and the only one whose released names are those of this package."""
    tiny.add_backbone(monkeypatch)
    monkeypatch.setitem(MODELS, "tiny", Preset(HODOR, tiny.SETTINGS, 64))
    monkeypatch.setitem(released.RULES, "tiny", ())


def saved(path: Path, **changes: Any) -> HODOR:
    torch.manual_seed(0)
    network = weights.build("tiny", **changes)
    weights.save(network, path, recipe={"steps": 3}, commit="abc")
    return network


def test_a_file_rebuilds_its_network_alone(tmp_path: Path) -> None:
    network = saved(tmp_path / "a.safetensors", **CHANGES)
    network.size = 48
    weights.save(network, tmp_path / "a.safetensors")
    loaded = weights.load(tmp_path / "a.safetensors", folded=False)
    assert loaded.settings == network.settings
    assert loaded.settings["grid"] == 2
    assert (loaded.name, loaded.size) == ("tiny", 48)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    theirs = network.state_dict()
    assert loaded.state_dict().keys() == theirs.keys()
    assert all(torch.equal(v, theirs[k]) for k, v in loaded.state_dict().items())
    image = tiny.pictures(1)
    for way in (loaded, weights.load(tmp_path / "a.safetensors")):
        for name, other in network.eval().encode(image).maps.items():
            torch.testing.assert_close(way.encode(image).maps[name], other, rtol=1e-3, atol=1e-3)


def test_the_package_loads_by_path_and_the_file_states_where_it_comes_from(tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors")
    assert hodor.load(str(tmp_path / "a.safetensors")).name == "tiny"
    about, _ = weights.read(tmp_path / "a.safetensors")
    assert about["recipe"] == {"steps": 3}
    assert about["commit"] == "abc"


def test_calibration_travels_with_the_weights(tmp_path: Path) -> None:
    network = saved(tmp_path / "a.safetensors")
    assert "calibration" not in weights.read(tmp_path / "a.safetensors")[0]
    assert weights.load(tmp_path / "a.safetensors").calibration == (1, 0)
    network.calibration = 0.5, -0.25
    weights.save(network, tmp_path / "a.safetensors")
    assert weights.load(tmp_path / "a.safetensors").calibration == (0.5, -0.25)


def test_weights_are_restated_whole(tmp_path: Path) -> None:
    source, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    network = saved(source)
    weights.save(network, source, half=True, recipe={"steps": 3})
    weights.restate(source, out, size=48, calibration=(0.5, -0.25), settings={"attention_scale": "paper"})
    (before, theirs), (after, mine) = weights.read(source), weights.read(out)
    changed = {"size": 48, "calibration": [0.5, -0.25], "settings": {**network.settings, "attention_scale": "paper"}}
    assert after == {**before, **changed}
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(v, theirs[k]) and v.dtype == theirs[k].dtype for k, v in mine.items())
    weights.restate(out, out)
    assert weights.read(out)[0] == after
    was = out.read_bytes()
    with pytest.raises(
        ValueError, match=r"a.safetensors contains a network that this version cannot build: expected pooling of .*, got 'x'"
    ):
        weights.restate(source, out, settings={"pooling": "x"})
    with pytest.raises(ValueError, match=r"a.safetensors does not fit the network: "):
        weights.restate(source, out, settings={"decoder_layers": 3})
    assert out.read_bytes() == was


def test_weights_between_two_files(tmp_path: Path) -> None:
    start, end, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    network = weights.build("tiny")
    weights.save(network, start, commit="1")
    with torch.no_grad():
        for value in network.state_dict().values():
            value.add_(1)
    network.size = 48
    weights.save(network, end, half=True, commit="2")
    weights.interpolate(start, end, out, 0.25)
    (one, first), (other, second), (about, mixed) = weights.read(start), weights.read(end), weights.read(out)
    assert about == {**other, "interpolated": {"share": 0.25, "start": one}}
    assert (about["size"], about["commit"], about["interpolated"]["start"]["commit"]) == (48, "2", "1")
    assert mixed.keys() == first.keys()
    for key, value in mixed.items():
        assert value.dtype == second[key].dtype
        if value.is_floating_point():
            torch.testing.assert_close(value.float(), first[key] + 0.25, atol=2e-3, rtol=0)
        else:
            assert torch.equal(value, second[key])
    weights.load(out)
    was = out.read_bytes()
    with pytest.raises(ValueError, match=r"^expected a share in \[0, 1\], got 1.5$"):
        weights.interpolate(start, end, out, 1.5)
    weights.save(weights.build("tiny", width=64), end)
    with pytest.raises(ValueError, match=r"a.safetensors and .*b.safetensors are not of the same network: width 32 and 64$"):
        weights.interpolate(start, end, out, 0.25)
    assert out.read_bytes() == was


def test_a_preset_that_changes_leaves_files_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that a file of an earlier version lacks has the default of the class."""
    network = saved(tmp_path / "a.safetensors")
    network.settings = {key: value for key, value in network.settings.items() if key != "pooling"}
    weights.save(network, tmp_path / "a.safetensors")
    monkeypatch.setitem(MODELS, "tiny", Preset(HODOR, {**tiny.SETTINGS, "pooling": "soft", "grid": 2}, 64))
    assert weights.build("tiny").settings["pooling"] == "soft"
    loaded = weights.load(tmp_path / "a.safetensors")
    assert loaded.settings == {**network.settings, "pooling": "hard"}


def test_a_preset_sets_how_many_frames_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "a.safetensors")
    assert weights.load(tmp_path / "a.safetensors").history == MODELS["tiny"].history == HODOR.history == 7
    monkeypatch.setitem(MODELS, "tiny", Preset(HODOR, tiny.SETTINGS, 64, remembers=4))
    assert weights.load(tmp_path / "a.safetensors").history == weights.build("tiny").history == MODELS["tiny"].history == 4


def test_without_a_name_all_use_the_same_bundled_weights() -> None:
    default = inspect.signature(weights.load).parameters["name_or_path"].default
    assert options.Network().model == default
    assert weights.read(default)[0]["model"] == default
    bundled = {path.stem for path in (Path(hodor.__file__).parent / "weights").glob("*.safetensors")}
    assert default in bundled - {"clicks"} < set(MODELS)
    assert sum(path.stat().st_size for path in (Path(hodor.__file__).parent / "weights").iterdir()) < 30e6


# Settings under their old names

OLD = {
    "stcn": (
        {"backbone": "tiny", "key_width": 8, "value_width": 32, "mask_encoder": "light", "top_k": 7},
        {"top": "top_k", "masks": "mask_encoder"},
    ),
    "xmem": (
        {
            "backbone": "tiny",
            "key_width": 8,
            "value_width": 32,
            "sensory_width": 6,
            "decoder_width": 32,
            "mask_encoder": "light",
            "top_k": 7,
            "max_prototypes": 300,
        },
        {"top": "top_k", "masks": "mask_encoder", "hidden_width": "sensory_width", "long_term": "max_prototypes"},
    ),
    "cutie": (
        {
            "backbone": "tiny",
            "width": 16,
            "key_width": 8,
            "heads": 2,
            "queries": 4,
            "blocks": 1,
            "feedforward_width": 24,
            "mask_encoder": "light",
            "max_prototypes": 300,
        },
        {"key": "key_width", "hidden": "feedforward_width", "long_term": "max_prototypes"},
    ),
}


def written_with(path: Path, network: Network, settings: dict[str, Any]) -> Path:
    """A file of these weights whose metadata has these settings."""
    from safetensors.torch import save_file

    about = {"model": network.name, "size": 64, "settings": settings}
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, path, {"hodor": json.dumps(about)})
    return path


@pytest.mark.parametrize(("model", "old"), [(model, old) for model, (_, names) in OLD.items() for old in (*names, "all")])
def test_a_file_with_old_names_of_settings_still_loads(tmp_path: Path, model: str, old: str) -> None:
    changes, names = OLD[model]
    assert dict(MODELS[model].network.renamed_settings) == names
    network = weights.build(model, **changes)
    previous = {new: name for name, new in names.items() if old in (name, "all")}
    settings = {previous.get(name, name): value for name, value in network.settings.items()}
    assert settings != network.settings
    loaded = weights.load(written_with(tmp_path / "old.safetensors", network, settings), folded=False)
    assert loaded.settings == network.settings
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("switch", "maximum"), [(True, 10_000), (False, 0)])
def test_in_old_files_of_cutie_long_term_is_true_or_false(tmp_path: Path, switch: bool, maximum: int) -> None:
    network = weights.build("cutie", **{**OLD["cutie"][0], "max_prototypes": maximum})
    settings = {name: value for name, value in network.settings.items() if name != "max_prototypes"}
    loaded = weights.load(written_with(tmp_path / "old.safetensors", network, {**settings, "long_term": switch}))
    assert loaded.settings == network.settings
    assert loaded.history == network.history == (10 if switch else 5)


@pytest.mark.parametrize(
    ("model", "old"), [("xmem-lite", {"top", "masks", "hidden_width", "long_term"}), ("hodor-lite", set())]
)
def test_the_bundled_files_load(model: str, old: set[str]) -> None:
    from safetensors import safe_open

    with safe_open(str(Path(hodor.__file__).parent / "weights" / f"{model}.safetensors"), "pt") as opened:
        stored = json.loads(opened.metadata()["hodor"])["settings"]
    assert old <= stored.keys()
    network = weights.load(model)
    renamed = type(network).renamed_settings
    assert {renamed.get(name, name): value for name, value in stored.items()}.items() <= network.settings.items()
    assert not old & network.settings.keys()


# How a video is followed


def test_tracking_is_saved_with_the_weights(tmp_path: Path) -> None:
    network = saved(tmp_path / "a.safetensors")
    assert "tracking" not in weights.read(tmp_path / "a.safetensors")[0]
    assert (network.history, network.pin_first, network.hold_lost) == (7, True, True)
    network.set_tracking(history=3, pin_first=False)
    weights.save(network, tmp_path / "a.safetensors")
    loaded = weights.load(tmp_path / "a.safetensors", folded=False)
    assert loaded.tracking == {"history": 3, "pin_first": False}
    assert (loaded.history, loaded.pin_first, loaded.hold_lost) == (3, False, True)
    weights.save(loaded, tmp_path / "b.safetensors")
    assert weights.read(tmp_path / "b.safetensors")[0]["tracking"] == loaded.tracking


def test_tracking_is_restated_and_interpolated(tmp_path: Path) -> None:
    start, end, out = (tmp_path / f"{name}.safetensors" for name in "abc")
    network = saved(start)
    network.set_tracking(history=3, pin_first=False)
    weights.save(network, end)
    weights.restate(end, out, size=48)
    assert weights.load(out).tracking == {"history": 3, "pin_first": False}
    weights.restate(end, out, tracking={"history": 4, "hold_lost": False})
    assert weights.load(out).tracking == {"history": 4, "pin_first": False, "hold_lost": False}
    weights.interpolate(start, end, out, 0.5)
    assert weights.load(out).tracking == {"history": 3, "pin_first": False}
    with pytest.raises(ValueError, match=r"cannot build: expected history of at least 1 frame, got 0$"):
        weights.restate(end, out, tracking={"history": 0})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fps": 3}, "tracking of history, pin_first, hold_lost, got fps"),
        ({"history": 0}, "history of at least 1 frame, got 0"),
        ({"history": True}, "history of at least 1 frame, got True"),
        ({"pin_first": 1}, "pin_first of true or false, got 1"),
    ],
)
def test_other_tracking_is_refused_and_changes_nothing(values: dict[str, Any], message: str) -> None:
    network = weights.build("tiny")
    with pytest.raises(ValueError, match=f"^expected {message}$"):
        network.set_tracking(**values)
    assert (network.tracking, network.history) == ({}, 7)


# Networks of other distributions


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A distribution that offers the presets "small" and, by mistake, "number"."""
    folder = tmp_path / "site"
    info = folder / "small_networks-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: small-networks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hodor.models]\nsmall = small_networks:PRESET\nnumber = small_networks:NUMBER\n")
    (folder / "small_networks.py").write_text(
        "from hodor.models.hodor import HODOR\nfrom hodor.models.weights import Preset\n"
        "class Small(HODOR):\n    renamed_settings = {'layers': 'encoder_layers'}\n"
        f"PRESET = Preset(Small, {tiny.SETTINGS!r}, 48, remembers=4)\nNUMBER = 7\n"
    )
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("small_networks", None)


def test_a_network_of_another_distribution_is_built_saved_and_loaded_by_name(tmp_path: Path, plugin: Path) -> None:
    network = weights.build("small", grid=2)
    assert type(network).__module__ == "small_networks"
    assert (network.name, network.size, network.history, network.settings["grid"]) == ("small", 48, 4, 2)
    weights.save(network, tmp_path / "small.safetensors")
    loaded = weights.load(tmp_path / "small.safetensors", folded=False)
    assert (type(loaded), loaded.settings, loaded.history) == (type(network), network.settings, 4)
    settings = {"layers" if name == "encoder_layers" else name: value for name, value in network.settings.items()}
    assert weights.load(written_with(tmp_path / "old.safetensors", network, settings)).settings == network.settings
    assert "small" not in MODELS


def test_networks_of_other_distributions_are_named_in_errors(plugin: Path) -> None:
    assert weights.names() == [*MODELS, "small", "number"]
    with pytest.raises(ValueError, match=r"^expected a model name \(hodor-t, .*, tiny, small, number\), got 'x'$"):
        weights.build("x")
    with pytest.raises(ValueError, match=r"^expected entry point hodor.models 'number' to be a Preset, got int$"):
        weights.build("number")
    with pytest.raises(FileNotFoundError, match=r"^no bundled weights for 'small': "):
        weights.load("small")


def test_a_model_of_this_package_is_not_replaced(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plugin / "small_networks-1.0.dist-info" / "entry_points.txt").write_text("[hodor.models]\ntiny = small_networks:PRESET\n")
    assert weights.build("tiny").size == 64
    assert weights.names().count("tiny") == 1


def test_saving_makes_the_same_bytes_twice(tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors")
    saved(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_an_unknown_model_is_named_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"^expected a model name \(hodor-t, hodor-lite, .*, tiny\), got 'hodor-x'$"):
        weights.build("hodor-x")


def test_a_model_without_bundled_weights_says_how_to_get_them() -> None:
    words = r"^no bundled weights for 'tiny': train it, or convert the authors' file with `hodor convert`"
    with pytest.raises(FileNotFoundError, match=words):
        weights.load("tiny")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^no file .*none\.safetensors: give a \.safetensors file, or one of hodor-t"):
        weights.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not", b"\x80\x02}q\x00.", struct.pack("<Q", 1 << 60) + b"{}"])
def test_a_file_of_another_format_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"^.*a\.safetensors is not a safetensors file .*hodor convert`$"):
        weights.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("about", [None, "7", "[]", '{"model": "tiny", "size": 64}', "{not json"])
def test_a_file_of_somebody_else_is_refused(tmp_path: Path, about: str | None) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2)}, tmp_path / "a.safetensors", {"hodor": about} if about else None)
    with pytest.raises(
        ValueError, match=r"a\.safetensors does not state which network it contains: give a file that this package wrote$"
    ):
        weights.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "about",
    [
        {"model": "tiny", "size": 64, "settings": {"colour": "red"}},
        {"model": "tiny", "size": "big", "settings": {}},
        {"model": "tiny", "size": 64, "settings": 7},
        {"model": ["tiny"], "size": 64, "settings": {}},
        {"model": "tiny", "size": 64, "settings": {"backbone": "no-such"}},
        {"model": "no-such", "size": 64, "settings": {}},
    ],
)
def test_a_file_of_a_network_that_cannot_be_built_is_refused_in_one_line(tmp_path: Path, about: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2)}, tmp_path / "a.safetensors", {"hodor": json.dumps(about)})
    words = r"^[^\n]*a\.safetensors contains a network that this version cannot build: [^\n]+$"
    with pytest.raises(ValueError, match=words):
        weights.load(tmp_path / "a.safetensors")


def test_all_that_does_not_fit_is_named_in_one_line_and_nothing_is_loaded(tmp_path: Path) -> None:
    network = weights.build("tiny")
    before = {k: v.clone() for k, v in network.state_dict().items()}
    state = {k: v + 1 for k, v in before.items()}
    del state["norms.0.bias"], state["encoder.object_embed"]
    state["norms.1.weight"] = torch.ones(7)
    state["extra"] = torch.ones(1)
    with pytest.raises(ValueError, match="fit") as caught:
        weights.fill(network, state, "FILE")
    assert str(caught.value) == (
        "FILE does not fit the network: missing norms.0.bias; missing encoder.object_embed; unexpected extra; "
        "norms.1.weight is (7,), expected (32,)"
    )
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_a_write_that_fails_leaves_the_old_file_whole_and_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "a.bin"
    write_atomically(path, b"old")
    assert path.read_bytes() == b"old"

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    for target in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, target, fail)
            with pytest.raises(OSError, match="no space"):
                write_atomically(path, b"new and longer")
        assert path.read_bytes() == b"old"
        assert os.listdir(path.parent) == ["a.bin"]

    class Full:
        """A file that breaks off in the middle."""

        def __init__(self, *args: Any) -> None:
            self.file = real(*args)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[:2])
            raise OSError("no space left on device")

    real = builtins.open
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", Full)
        with pytest.raises(OSError, match="no space"):
            write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["a.bin"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_an_interrupt_while_writing_leaves_nothing_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a.bin", b"new")
    assert os.listdir(tmp_path) == []


# The authors' files


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


@pytest.fixture
def harmless(tmp_path: Path) -> Iterator[Path]:
    """The folder that the file would make if its code ran; it must not exist after the test."""
    place = tmp_path / "struck"
    yield place
    assert not place.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["model", "logger", "top"])
def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path: Path, harmless: Path, where: str, zipped: bool) -> None:
    bomb = Bomb(harmless)
    state: Any = dict(weights.build("tiny").state_dict())
    content = {"model": {"model": {**state, "x": bomb}}, "logger": {"model": state, "logger": bomb}, "top": bomb}[where]
    source, out = tmp_path / "250000.pth", tmp_path / "out.safetensors"
    torch.save(content, source, _use_new_zipfile_serialization=zipped)
    words = r"250000\.pth contains more than tensors and plain values: refused, since loading it would run code$"
    with pytest.raises(ValueError, match=words):
        released.convert(source, out, "tiny")
    assert not harmless.exists()
    assert sorted(os.listdir(tmp_path)) == ["250000.pth"]
    torch.load(source, weights_only=False)  # the bomb is live
    harmless.rmdir()


def test_a_plain_pickle_bomb_is_refused(tmp_path: Path, harmless: Path) -> None:
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Bomb(harmless), protocol=2))
    with pytest.raises(ValueError, match=r"refused, since loading it would run code$"):
        released.convert(tmp_path / "a.pth", tmp_path / "out.safetensors", "tiny")
    assert os.listdir(tmp_path) == ["a.pth"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda b: b"\x80\x02" + b), st.just(b"PK\x03\x04")))
def test_any_bytes_are_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"^[^\n]*a\.pth[^\n]*$"):
        released.read_pth(path)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_half_a_checkpoint_is_refused_in_one_line(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": {"x": torch.ones(5000)}}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(ValueError, match=r"^[^\n]*a\.pth is not a PyTorch file: [^\n]*$"):
        released.read_pth(path)


@pytest.mark.parametrize("content", [{}, [1, 2], {"model": {"epoch": 3}}, {"weights": "x"}, torch.ones(3)])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth contains no state dict: give a dict of tensors, or one under 'model'"):
        released.read_pth(tmp_path / "a.pth")


def test_missing_files_and_unknown_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^expected a model with released weights \(hodor-t, .*\), got 'x'$"):
        released.convert(tmp_path / "a.pth", tmp_path / "out", "x")
    with pytest.raises(FileNotFoundError, match=r"^no file .*a\.pth: give the authors' \.pth file$"):
        released.convert(tmp_path / "a.pth", tmp_path / "out", "tiny")


@pytest.fixture(scope="module")
def authors() -> dict[str, Tensor]:
    return fill(keys("hodor"))


def checkpoint(state: dict[str, Tensor]) -> dict[str, Any]:
    """As the authors' trainer writes it: weights beside optimiser, logger and counter."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimiser = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimiser.step()
    return {
        "model": OrderedDict(state),
        "optimizers_and_lr_schedulers": {"optimizer_0": optimiser.state_dict(), "lr_scheduler_0": {"last_epoch": 9}},
        "logger": {"loss": [0.5, 0.25], "names": ("a", "b"), "none": None},
        "iterations": 250000,
    }


def test_the_authors_checkpoint_becomes_a_file_that_loads(tmp_path: Path, authors: dict[str, Tensor]) -> None:
    source, out = tmp_path / "250000.pth", tmp_path / "hodor.safetensors"
    tables = {
        f"feature_extractor.bb_fpn.0.layers.{i}.blocks.0.attn.relative_position_index": torch.zeros(49, 49) for i in range(4)
    }
    torch.save(checkpoint({**authors, **tables}), source)
    network = released.convert(source, out)
    loaded = weights.load(out, folded=False)
    assert (loaded.name, loaded.size) == ("hodor-t", 512)
    assert weights.read(out)[0]["tracking"] == {"history": 7, "pin_first": False, "hold_lost": False}
    assert (loaded.history, loaded.pin_first, loaded.hold_lost) == (7, False, False)
    assert weights.read(out)[0]["converted_from"] == "250000.pth"
    mine = loaded.state_dict()
    assert all(torch.equal(v, mine[k]) for k, v in network.state_dict().items())
    assert torch.equal(mine["decoder.layers.2.ffn.3.weight"], authors["decoder.attn_layers.2.fc2.weight"])
    assert torch.equal(mine["encoder.cell_embed"], authors["encoder.bg_query_embed"])


def test_an_authors_checkpoint_that_does_not_fit_is_named_in_one_line(tmp_path: Path, authors: dict[str, Tensor]) -> None:
    state = dict(authors)
    del state["encoder.fg_query_embed"]
    state["decoder.fmap_proj_9x.weight"] = torch.ones(2)
    state["decoder.conv_4x.0.weight"] = torch.ones(256, 256, 1, 1)
    torch.save(checkpoint(state), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="does not fit") as caught:
        released.convert(tmp_path / "a.pth", tmp_path / "out.safetensors")
    assert str(caught.value) == (
        f"{tmp_path / 'a.pth'} does not fit the network: missing encoder.object_embed; unexpected decoder.fmap_proj_9x.weight; "
        "decoder.head.0.weight is (256, 256, 1, 1), expected (256, 256, 3, 3)"
    )
    assert os.listdir(tmp_path) == ["a.pth"]


def test_every_released_name_has_one_place_and_every_weight_a_name() -> None:
    shapes = keys("hodor")
    ours = released.rename({k: torch.empty(1) for k in shapes}, released.HODOR_RULES)
    dropped = len(shapes) - len(ours)
    want = {k: tuple(v.shape) for k, v in weights.build("hodor-t").state_dict().items()}
    assert ours.keys() == want.keys()
    # 12 index tables; norms 2 to 4, smoothing 2 and 3, the unused projection: weights and biases
    assert dropped == 12 + 6 + 4 + len([k for k in shapes if k.startswith("decoder.fmap_proj_4x")])


def test_a_folded_network_is_not_saved(tmp_path: Path) -> None:
    network = tiny.network()
    network.folded = True
    with pytest.raises(ValueError, match="the network is folded: load it with folded=False to save it"):
        weights.save(network, tmp_path / "w.safetensors")
    assert not any(tmp_path.iterdir())


def test_half_weights_take_half_the_room_and_come_back_as_float32(tmp_path: Path) -> None:
    network = weights.build("hodor-lite", backbone="efficientnet-lite0", width=32, heads=2, encoder_layers=1, decoder_layers=1)
    weights.save(network, tmp_path / "whole.safetensors")
    weights.save(network, tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.52 * (tmp_path / "whole.safetensors").stat().st_size
    loaded = weights.load(tmp_path / "half.safetensors", folded=False)
    for key, value in loaded.state_dict().items():
        assert value.dtype == network.state_dict()[key].dtype
        torch.testing.assert_close(value, network.state_dict()[key], rtol=1e-3, atol=1e-6)


def test_the_still_image_weights_of_the_repository_are_those_of_the_default_network() -> None:
    stills = weights.load(Path(__file__).parents[1] / "weights" / "xmem-lite-stills.safetensors")
    bundled = weights.load("xmem-lite")
    assert (stills.name, stills.settings, stills.size, stills.history) == ("xmem-lite", bundled.settings, 416, 7)
    assert stills.calibration == (1.0, 0.0)


def test_loading_weights_does_not_import_the_compiler() -> None:
    """torch._dynamo takes a second and 70 MB."""
    code = "import sys, hodor; hodor.load('hodor-lite'); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

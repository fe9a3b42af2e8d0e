"""Files that rebuild a network alone, and the authors' files, read without running anything in them."""

from __future__ import annotations

import builtins
import inspect
import json
import os
import pickle
import struct
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
from hodor.models.hodor import HODOR
from hodor.models.weights import MODELS, Preset, write_atomically

CHANGES = {"grid": 2, "catch_all": False, "pooling": "soft", "feature_positions": True}


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "tiny" is a model like the others, and the only one whose authors' names equal ours."""
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
        for mine, other in zip(way.encode(image).maps, network.eval().encode(image).maps, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)


def test_the_package_loads_by_path_and_the_file_tells_where_it_comes_from(tmp_path: Path) -> None:
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
    with pytest.raises(ValueError, match=r"a.safetensors holds a network that this version cannot build: pooling is 'x', want"):
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
    with pytest.raises(ValueError, match=r"^share is 1.5: want 0 to 1$"):
        weights.interpolate(start, end, out, 1.5)
    weights.save(weights.build("tiny", width=64), end)
    with pytest.raises(ValueError, match=r"a.safetensors and .*b.safetensors are not one network: width 32 and 64$"):
        weights.interpolate(start, end, out, 0.25)
    assert out.read_bytes() == was


def test_a_preset_that_changes_leaves_files_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file of an earlier version does not say of its network is as the class has it."""
    network = saved(tmp_path / "a.safetensors")
    network.settings = {key: value for key, value in network.settings.items() if key != "pooling"}
    weights.save(network, tmp_path / "a.safetensors")
    monkeypatch.setitem(MODELS, "tiny", Preset(HODOR, {**tiny.SETTINGS, "pooling": "soft", "grid": 2}, 64))
    assert weights.build("tiny").settings["pooling"] == "soft"
    loaded = weights.load(tmp_path / "a.safetensors")
    assert loaded.settings == {**network.settings, "pooling": "hard"}


def test_a_preset_says_how_many_frames_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "a.safetensors")
    assert weights.load(tmp_path / "a.safetensors").history == MODELS["tiny"].history == HODOR.history == 7
    monkeypatch.setitem(MODELS, "tiny", Preset(HODOR, tiny.SETTINGS, 64, remembers=4))
    assert weights.load(tmp_path / "a.safetensors").history == weights.build("tiny").history == MODELS["tiny"].history == 4


def test_without_a_name_all_take_the_same_weights_from_the_box() -> None:
    default = inspect.signature(weights.load).parameters["name_or_path"].default
    assert options.Network().model == default
    assert weights.read(default)[0]["model"] == default
    boxed = {path.stem for path in (Path(hodor.__file__).parent / "weights").glob("*.safetensors")}
    assert default in boxed < set(MODELS)
    assert sum(path.stat().st_size for path in (Path(hodor.__file__).parent / "weights").iterdir()) < 30e6


def test_saving_makes_the_same_bytes_twice(tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors")
    saved(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_unknown_models_are_named_beside_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^no model 'hodor-x': want hodor-t, hodor-lite, .*, tiny$"):
        weights.build("hodor-x")


def test_a_model_without_weights_in_the_box_says_how_to_get_them() -> None:
    words = r"^no weights for 'tiny' in the box: train it, or convert the authors' file with `hodor convert`"
    with pytest.raises(FileNotFoundError, match=words):
        weights.load("tiny")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^no file .*none\.safetensors: want a \.safetensors file, or one of hodor-t"):
        weights.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not", b"\x80\x02}q\x00.", struct.pack("<Q", 1 << 60) + b"{}"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"^.*a\.safetensors is not a safetensors file .*hodor convert`$"):
        weights.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("about", [None, "7", "[]", '{"model": "tiny", "size": 64}', "{not json"])
def test_a_file_of_somebody_else_is_refused(tmp_path: Path, about: str | None) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2)}, tmp_path / "a.safetensors", {"hodor": about} if about else None)
    with pytest.raises(ValueError, match=r"a\.safetensors does not say which network it holds: want a file written by hodor$"):
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
    words = r"^[^\n]*a\.safetensors holds a network that this version cannot build: [^\n]+$"
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
        "norms.1.weight is (7,), want (32,)"
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
    """Unpickled by a careless reader, it makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


@pytest.fixture
def harmless(tmp_path: Path) -> Iterator[Path]:
    """Where the bomb would strike; it strikes a careless reader, and no other."""
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
    words = r"250000\.pth holds more than tensors and plain values: refused, since loading it would run code$"
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
    with pytest.raises(ValueError, match=r"a\.pth holds no state dict: want a dict of tensors, or one under 'model'"):
        released.read_pth(tmp_path / "a.pth")


def test_missing_files_and_unknown_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^no key map for 'x': want hodor-t"):
        released.convert(tmp_path / "a.pth", tmp_path / "out", "x")
    with pytest.raises(FileNotFoundError, match=r"^no file .*a\.pth: want the authors' \.pth file$"):
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
        "decoder.head.0.weight is (256, 256, 1, 1), want (256, 256, 3, 3)"
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

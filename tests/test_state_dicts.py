"""Weights of other programs and other networks: read without their prefixes, or refused in one short line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from hodor.models import released, state_dicts, weights
from hodor.models.backbones import load_checkpoint
from hodor.models.hodor import HODOR
from hodor.models.weights import MODELS, Preset


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.add_backbone(monkeypatch)
    monkeypatch.setitem(MODELS, "tiny", Preset(HODOR, tiny.SETTINGS, 64))
    monkeypatch.setitem(MODELS, "wide", Preset(HODOR, {**tiny.SETTINGS, "width": 64}, 64))
    monkeypatch.setitem(released.RULES, "tiny", ())


def state_of(model: str = "tiny") -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(weights.build(model).state_dict())


def prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


def wrapped(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Contents of .pth files with the same weights, by what wrote them."""
    compiled = {name.replace("encoder.", "encoder._orig_mod.", 1): value for name, value in state.items()}
    return {
        "plain": state,
        "DistributedDataParallel": prefixed(state, "module."),
        "torch.compile": prefixed(state, "_orig_mod."),
        "torch.compile of a part": compiled,
        "Lightning": {"state_dict": prefixed(state, "model."), "epoch": 3},
        "both": {"model": prefixed(state, "_orig_mod.module."), "optimizer": {"state": {}}},
        "an average": {"ema": prefixed(state, "module."), "step": 9},
        "AveragedModel": {**prefixed(state, "module."), "n_averaged": torch.tensor(3)},
    }


@pytest.mark.parametrize("kind", list(wrapped({})))
def test_a_pth_file_is_read_without_its_wrappers(tmp_path: Path, kind: str) -> None:
    state = state_of()
    torch.save(wrapped(state)[kind], tmp_path / "a.pth")
    released.convert(tmp_path / "a.pth", tmp_path / "out.safetensors", "tiny")
    found = weights.load(tmp_path / "out.safetensors", folded=False).state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "ema."])
def test_a_safetensors_file_is_read_without_its_prefix(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "a.safetensors"
    network = weights.build("tiny")
    weights.save(network, path)
    about, state = weights.read(path)
    weights._write(path, about, prefixed(state, prefix))
    assert all(name.startswith(prefix) for name in load_file(path))
    found = weights.load(path, folded=False).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in network.state_dict().items())


def test_a_network_whose_own_names_begin_with_a_prefix_keeps_them() -> None:
    own = {"model.a": torch.ones(1), "model.b": torch.ones(2)}
    assert state_dicts.problems(own, own) == ""
    assert state_dicts.unwrapped(own).keys() == {"a", "b"}
    assert state_dicts.unwrapped({"model.a": 1, "head.b": 2}).keys() == {"model.a", "head.b"}


def test_what_does_not_fit_is_one_short_line_and_says_how_much_more_there_is(tmp_path: Path) -> None:
    network, state = weights.build("tiny"), state_of("wide")
    with pytest.raises(ValueError, match="does not fit") as caught:
        weights.fill(network, state, "FILE")
    line = str(caught.value)
    assert len(line) < 300
    assert "\n" not in line
    shown, more = line.count("expected ("), int(line.split(" and ")[-1].removesuffix(" more"))
    wrong = sum(value.shape != state[name].shape for name, value in network.state_dict().items())
    assert shown + more == wrong > 20
    long = {f"{'x' * 5_000}.{n}": torch.ones(1) for n in range(50)}
    with pytest.raises(ValueError, match="does not fit") as caught:
        weights.fill(network, long, "FILE")
    assert len(str(caught.value)) < 300
    with pytest.raises(ValueError, match="does not fit") as caught:
        load_checkpoint(network.backbone, long)
    assert len(str(caught.value)) < 350


def test_training_from_weights_of_another_network_names_both(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    weights.save(weights.build("wide"), path)
    with pytest.raises(ValueError, match="expected") as caught:
        weights.begin_from(weights.build("tiny"), path)
    advice = "give weights of tiny, or train wide"
    assert str(caught.value) == f"expected weights of tiny, got {path}, which has those of wide: {advice}"
    network = weights.build("wide")
    weights.begin_from(network, path)
    assert all(torch.equal(value, load_file(path)[name]) for name, value in network.state_dict().items())


def test_a_checkpoint_of_a_run_is_named_with_the_file_to_give_instead(tmp_path: Path) -> None:
    state = state_of()
    about = {"step": 1, "best": 0.0, "recipe": {"model": "tiny"}, "optimiser": {}}
    torch.save({"network": state, "average": state, **about}, tmp_path / "last.pt")
    line = (
        f"expected weights, got {tmp_path / 'last.pt'}, a checkpoint of a training run: give {tmp_path / 'weights.safetensors'}"
    )
    with pytest.raises(ValueError, match="expected weights") as caught:
        weights.load(tmp_path / "last.pt")
    assert str(caught.value) == line
    with pytest.raises(ValueError, match="expected weights") as caught:
        released.convert(tmp_path / "last.pt", tmp_path / "out.safetensors", "tiny")
    assert str(caught.value) == line
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"convert a \.pth file with `hodor convert`$"):
        weights.load(tmp_path / "a.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    network = weights.build("tiny")
    name = "encoder.object_embed"
    network.state_dict()[name].view(-1)[0] = value
    weights.save(network, tmp_path / "a.safetensors")
    torch.save(network.state_dict(), tmp_path / "a.pth")
    words = rf"^expected finite weights, got .*a\.{{}}, in which 1 of \d+ tensors hold NaN or infinity \(first: {name}\): give "
    with pytest.raises(ValueError, match=words.format("safetensors")):
        weights.load(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=words.format("pth")):
        released.convert(tmp_path / "a.pth", tmp_path / "out.safetensors", "tiny")
    assert not (tmp_path / "out.safetensors").exists()
    backbone = {k: v * value if v.is_floating_point() else v for k, v in network.backbone.state_dict().items()}
    with pytest.raises(ValueError, match=r"^expected finite weights, got a checkpoint in which "):
        load_checkpoint(network.backbone, backbone)


def test_a_file_without_names_or_with_itself_inside_has_no_state_dict(tmp_path: Path) -> None:
    inside: dict[str, Any] = {}
    inside["model"] = inside
    for content in ({1: torch.ones(1)}, inside):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=r"a\.pth contains no state dict"):
            released.read_pth(tmp_path / "a.pth")
    save_file({"a": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"b\.safetensors does not state which network it contains"):
        weights.load(tmp_path / "b.safetensors")

"""Golden tests: published weights, through our importers and networks, give the published numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import fewtoon
from fewtoon.io import foreign, weights
from fewtoon.methods.base import Batch, Shared
from fewtoon.methods.groups import Groups
from fewtoon.methods.ugatit import DISCRIMINATORS, UGATIT
from fewtoon.nets.ugatit import heatmap

ROOT = (
    Path(os.environ.get("FEWTOON_REFERENCE", Path(__file__).parents[2] / "shared" / "reference")) / "ugatit"
)
pytestmark = pytest.mark.skipif(
    not ROOT.is_dir(), reason=f"no golden values at {ROOT}; set FEWTOON_REFERENCE to their folder"
)
NAMES = ("ugatit_light", "ugatit_full", "ugatit_light_groups")


def golden(name: str) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v) for k, v in np.load(ROOT / f"{name}.npz").items()}


def method_of(found: foreign.Found, sides: str = "both") -> UGATIT:
    """sides: of those discriminators whose group classifier is kept; the published file has four of them and
    uses those of the drawings."""
    if "group.weight" not in found.networks["drawings_global"]:
        method = UGATIT(UGATIT.Config(**found.model), found.size or 128)
    else:
        told = {"generator_groups": "none", "group_loss": "cross-entropy", "group_sides": sides}
        config = Groups.Config(**found.model, **told, reader_weight=0)
        method = Groups(config, found.size or 128, ["0", "1", "2", "3"])
    for name, network in method.networks().items():
        tensors = found.networks[name]
        if getattr(network, "group", None) is None:
            tensors = {key: value for key, value in tensors.items() if not key.startswith("group.")}
        weights.fill(network, tensors, name)
    return method


@pytest.mark.parametrize("name", NAMES)
def test_outputs(name):
    values, found = golden(name), foreign.read(ROOT / f"{name}.pt")
    method = method_of(found)
    for theirs, ours in foreign.NETWORKS.items():
        network = method.networks()[ours]
        side = "photo" if theirs in ("genA2B", "disGA", "disLA") else "drawing"
        with torch.no_grad():
            out = network(values[side])
        first = "image" if theirs.startswith("gen") else "logit"
        torch.testing.assert_close(out[0], values[f"{theirs}.{first}"], atol=1e-4, rtol=0)
        torch.testing.assert_close(out.cam_logit, values[f"{theirs}.cam_logit"], atol=1e-4, rtol=0)
        torch.testing.assert_close(heatmap(out), values[f"{theirs}.heatmap"], atol=1e-4, rtol=1e-5)
        if f"{theirs}.group_logit" in values:
            torch.testing.assert_close(
                network.classify(out), values[f"{theirs}.group_logit"], atol=1e-4, rtol=0
            )


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients(name):
    """Every loss term and the norm of every network's gradient, of both phases, at the same weights."""
    values, found = golden(name), foreign.read(ROOT / f"{name}.pt")
    truth = json.loads((ROOT / f"{name}.json").read_text())
    method = method_of(found, "drawings")
    groups = values.get("group", torch.full((2,), -1))
    batch = Batch(values["photo"], values["drawing"], groups, groups, 0)
    short = {ours: theirs for theirs, ours in foreign.NETWORKS.items()}
    short |= {"photos": "A", "drawings": "B"}
    shared, seen = Shared(), 0
    for phase, names in zip(method.phases(), (DISCRIMINATORS, ("photo_to_drawing", "drawing_to_photo"))):
        for ours, network in method.networks().items():
            network.requires_grad_(ours in names or phase.name == "D")
        losses = phase.losses(batch, shared)
        total = sum(phase.weights[key] * loss for key, loss in losses.items())
        for key, loss in losses.items():
            network, term = key.split("/")
            assert loss.item() == pytest.approx(
                truth["losses"][f"{phase.name.lower()}/{short[network]}/{term}"], rel=1e-3, abs=1e-5
            ), key
            seen += 1
        assert total.item() == pytest.approx(truth["losses"][f"{phase.name.lower()}/total"], rel=1e-3)
        for network in method.networks().values():
            network.zero_grad(set_to_none=True)
        total.backward(retain_graph=phase.name == "D")
        for ours in names:
            grads = [p.grad for p in method.networks()[ours].parameters() if p.grad is not None]
            norm = torch.stack([g.norm() for g in grads]).norm().item()
            assert norm == pytest.approx(
                truth["gradient_norms"][f"{phase.name.lower()}/{short[ours]}"], rel=1e-3
            ), ours
    assert seen == 8 + 14 + (2 + 2 if name.endswith("groups") else 0)


@pytest.mark.parametrize("name", [*NAMES, "photo2cartoon_light"])
def test_imported_style_draws_the_same(name, tmp_path):
    values = golden(name)
    line = foreign.import_style(
        ROOT / f"{name}.pt", tmp_path / "s.safetensors", None if "full" in name else 128
    )
    style = fewtoon.load(tmp_path / "s.safetensors", device="cpu")
    assert ("full" if "full" in name else "light") in line
    torch.testing.assert_close(style.translate(values["photo"]), values["genA2B.image"], atol=1e-4, rtol=0)
    drawn = style.method.networks()["photo_to_drawing"](values["photo"])
    torch.testing.assert_close(drawn.cam_logit, values["genA2B.cam_logit"], atol=1e-4, rtol=0)
    torch.testing.assert_close(heatmap(drawn), values["genA2B.heatmap"], atol=1e-4, rtol=1e-5)

"""MobileFaceNet: both layouts, the face crop, and the published numbers where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fewtoon.errors import Problem
from fewtoon.nets import mobilefacenet
from fewtoon.nets.mobilefacenet import FoamliuLayout, InsightFaceLayout, face_crop

REFERENCE = Path(os.environ.get("FEWTOON_REFERENCE", Path(__file__).parents[2] / "shared" / "reference"))


def test_reproduces_the_published_network():
    folder = REFERENCE / "ugatit"
    if not (folder / "mobilefacenet_random.pth").is_file():
        pytest.skip(f"no golden values in {folder}: set FEWTOON_REFERENCE to their folder")
    network = mobilefacenet.load(folder / "mobilefacenet_random.pth")
    golden = np.load(folder / "mobilefacenet_random.npz")
    with torch.no_grad():
        found = network(torch.from_numpy(golden["image"])).numpy()
    np.testing.assert_allclose(found, golden["embedding"], atol=1e-4)


@pytest.mark.parametrize("layout", [InsightFaceLayout, FoamliuLayout])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_layout_is_found_from_the_file(layout, suffix, tmp_path):
    torch.manual_seed(0)
    original = layout().eval()
    file = tmp_path / f"face{suffix}"
    if suffix == ".pth":
        torch.save(original.state_dict(), file)
    else:
        from safetensors.torch import save_file

        save_file(original.state_dict(), file)
    network = mobilefacenet.load(file)
    assert type(network) is layout
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    faces = torch.rand(2, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        assert torch.equal(network(faces), original(faces))
        assert network(faces).shape == (2, network.dim)
        torch.testing.assert_close(network(faces).norm(dim=1), torch.ones(2))


def test_foamliu_values_with_weights_made_by_rule():
    """The numbers are those of the version that tells people apart with the published weights."""
    network = FoamliuLayout().eval()
    with torch.no_grad():
        for index, (name, tensor) in enumerate(sorted(network.state_dict().items())):
            if tensor.is_floating_point():
                wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * 1.7 + index)
                level = 1.5 if name.endswith("var") else 0.0
                spread = tensor[0].numel() ** -0.5 if tensor.ndim == 4 else 1.0
                tensor.copy_(
                    (level + 2.0 * spread * wave if tensor.ndim == 4 else level + wave).view_as(tensor)
                )
                if name.endswith("var"):
                    tensor.abs_().add_(0.1)
        y, x = torch.meshgrid(torch.linspace(-1, 1, 112), torch.linspace(-1, 1, 112), indexing="ij")
        found = network(torch.stack([x, y, x * y])[None])[0]
    np.testing.assert_allclose(found[::32].numpy(), [-0.10194, 0.083438, -0.008514, 0.040416], atol=1e-4)


def test_crop_at_256():
    rows = torch.arange(256.0).view(1, 1, 256, 1).expand(1, 1, 256, 256)
    for images, first, last in ((rows, 57, 218), (rows.mT, 47, 208)):
        crop = face_crop(images)
        assert crop.shape == (1, 1, 112, 112)
        assert crop.min() == pytest.approx(first, abs=1e-3)
        assert crop.max() == pytest.approx(last, abs=1e-3)


def test_crop_shows_the_same_place_at_any_size():
    images = torch.rand(1, 3, 256, 256)
    smooth = torch.nn.functional.avg_pool2d(images, 31, 1, 15)
    half = torch.nn.functional.avg_pool2d(smooth, 2)
    assert (face_crop(half) - face_crop(smooth)).abs().max() < 0.02


def test_gradients_reach_the_pictures():
    torch.manual_seed(0)
    network = FoamliuLayout().eval().requires_grad_(False)
    images = torch.rand(2, 3, 64, 64).requires_grad_()
    embedded = network.embed(images)
    (1 - (embedded[0] * embedded[1]).sum()).backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0


def test_pixels_and_tensors_agree():
    network = FoamliuLayout().eval()
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(network.embed_pixels(pixels), network.embed(pixels / 127.5 - 1))


def test_other_files_are_refused(tmp_path):
    file = tmp_path / "face.pth"
    with pytest.raises(Problem, match="does not exist"):
        mobilefacenet.load(file)
    torch.save({"weight": torch.zeros(3)}, file)
    with pytest.raises(Problem, match="no MobileFaceNet"):
        mobilefacenet.load(file)
    torch.save([torch.zeros(3)], file)
    with pytest.raises(Problem, match="state dict"):
        mobilefacenet.load(file)
    tensors = FoamliuLayout().state_dict()
    del tensors["conv3.bias"]
    torch.save(tensors, file)
    with pytest.raises(Problem, match=r"conv3\.bias"):
        mobilefacenet.load(file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(Problem):
        mobilefacenet.load(file)

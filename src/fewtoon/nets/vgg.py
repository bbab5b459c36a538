"""VGG16 and VGG19, the networks whose features perceptual losses compare.

Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015, arXiv:1409.1556,
table 1, columns D and E; without batch normalisation. Weights come from a file that the user names, with the tensor
names of torchvision's checkpoints, which are therefore not ours to choose.

Layers are named as in the literature: conv3_2 and relu3_2 belong to the second convolution of the third stage, pool3
is what halves the size after it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fewtoon.errors import Problem, nearest
from fewtoon.io import weights

CHANNELS = (64, 128, 256, 512, 512)  # of the five stages
CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # depth -> of each stage
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]
CLASSIFIER = {"0": (4096, 25088), "3": (4096, 4096), "6": (1000, 4096)}  # in whole checkpoints; not used here


def layer_names(depth: int) -> list[str]:
    """conv1_1, relu1_1, conv1_2 ... pool5, in the order of the network's `features`."""
    names = []
    for stage, count in enumerate(CONVOLUTIONS[depth], 1):
        for k in range(1, count + 1):
            names += [f"conv{stage}_{k}", f"relu{stage}_{k}"]
        names.append(f"pool{stage}")
    return names


class VGG(nn.Module):
    """The convolutions of VGG16 or VGG19, to be asked for named layers.

    depth: 16 or 19; Problem for another.
    """

    def __init__(self, depth: int = 16) -> None:
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise Problem(f"VGG{depth}: there are VGG16 and VGG19 here")
        self.depth, self.names = depth, layer_names(depth)
        layers: list[nn.Module] = []
        inside = 3
        for name in self.names:
            if name.startswith("conv"):
                outside = CHANNELS[int(name[4]) - 1]
                layers.append(nn.Conv2d(inside, outside, 3, padding=1))
                inside = outside
            else:
                layers.append(nn.ReLU() if name.startswith("relu") else nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor, layers: Sequence[str]) -> list[Tensor]:
        """x: (B, 3, H, W), normalised as the weights expect it, see `imagenet` -> a map (B, C, h, w) for each of
        `layers`, in their order. Raises Problem for a name that is none."""
        wanted = {name: self._place(name) for name in layers}
        found: dict[str, Tensor] = {}
        for place in range(max(wanted.values()) + 1):
            x = self.features[place](x)
            if self.names[place] in wanted:
                found[self.names[place]] = x
        return [found[name] for name in layers]

    def until(self, last: str) -> VGG:
        """This network without what comes after the layer `last`. Raises Problem for a name that is none."""
        count = self._place(last) + 1
        self.names, self.features = self.names[:count], nn.Sequential(*list(self.features)[:count])
        return self

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise Problem(f"VGG{self.depth} has no layer {name!r} here; {nearest(name, self.names)}")
        return self.names.index(name)


def imagenet(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> the same as the networks of ImageNet were trained on it."""
    mean, deviation = (pictures.new_tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return ((pictures + 1) / 2 - mean) / deviation


def load(path: str | Path, depth: int | None = None) -> VGG:
    """The network of a weights file (.pth, .pt or .safetensors), frozen and in eval mode, on the CPU.

    The file is a whole checkpoint of torchvision's layout or its `features` alone; every tensor must be there and
    fit. depth: refuse the other one. Raises Problem for a missing, torn or hostile file, and for
    another network.
    """
    told = f"VGG file {str(path)!r}"
    tensors = weights.read_state(path)
    if any(key.endswith("running_mean") for key in tensors):
        raise Problem(f"{told} has batch normalisation, which is another network; name the plain VGG16 or 19")
    found = next(
        (d for d in CONVOLUTIONS if _convolutions(tensors) == [f"features.{k}.weight" for k in _indices(d)]),
        None,
    )
    if found is None or (depth is not None and found != depth):
        what = f"VGG{found}" if found else "no VGG16 or VGG19 with torchvision's tensor names"
        raise Problem(f"{told} holds {what}; wanted is VGG{depth or '16 or 19'}")
    head = {key: t for key, t in tensors.items() if key.startswith("classifier.")}
    expected = {f"classifier.{k}.weight": shape for k, shape in CLASSIFIER.items()}
    expected |= {f"classifier.{k}.bias": shape[:1] for k, shape in CLASSIFIER.items()}  # type: ignore[misc]
    if head and {key: tuple(t.shape) for key, t in head.items()} != expected:
        raise Problem(f"{told} has a classifier of another shape; name torchvision's checkpoint as it is")
    with torch.device("meta"):
        network = VGG(found)
    weights.fill(network, {key: t for key, t in tensors.items() if key not in head}, told)
    if not all(torch.isfinite(t).all() for t in network.state_dict().values()):
        raise Problem(f"{told} holds weights that are not finite: copy it again")
    return network.eval().requires_grad_(False)


def _convolutions(keys: Collection[str]) -> list[str]:
    found = [key for key in keys if key.startswith("features.") and key.endswith(".weight")]
    return sorted(found, key=lambda key: int(number) if (number := key.split(".")[1]).isdigit() else -1)


def _indices(depth: int) -> list[int]:
    return [place for place, name in enumerate(layer_names(depth)) if name.startswith("conv")]

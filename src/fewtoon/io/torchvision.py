"""torchvision, which fewtoon does not need, for the libraries that do."""

from __future__ import annotations

from importlib import metadata

import torch

_kept: list[torch.library.Library] = []  # declared operators live as long as their library object


def declare_operators() -> None:
    """Let a torchvision built for CUDA be imported beside a CPU torch: its Python half is all we need.

    Without these two schemas the import fails with "operator torchvision::nms does not exist".
    """
    try:
        built_for_cuda = "+cu" in metadata.version("torchvision") or "+" not in metadata.version(
            "torchvision"
        )
    except metadata.PackageNotFoundError:
        return
    if torch.version.cuda is not None or not built_for_cuda or hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)

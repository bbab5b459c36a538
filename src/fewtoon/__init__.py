"""fewtoon: photos of faces into drawings in one artist's style, learned from few drawings.

style = fewtoon.load("style.safetensors")
style.draw(PIL.Image.open("me.jpg")).save("drawn.png")
"""

from __future__ import annotations

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# Nothing that fewtoon builds on may phone home.
for name in ("HF_HUB_DISABLE_TELEMETRY", "ORT_DISABLE_TELEMETRY"):
    os.environ.setdefault(name, "1")

# Names are imported when first used: `import fewtoon` and `fewtoon --help` need no torch.
_WHERE = {
    "Problem": "fewtoon.errors",
    "Pack": "fewtoon.data.pack",
    "Style": "fewtoon.style",
    "load": "fewtoon.style",
    "prepare": "fewtoon.data.prepare",
    "train": "fewtoon.engine.train",
    "evaluate": "fewtoon.metrics.evaluate",
    "translate": "fewtoon.draw",
}

__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'fewtoon' has no attribute {name!r}")

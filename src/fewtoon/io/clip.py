"""CLIP from a local file: texts and pictures as unit vectors whose cosine says how well they go together.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, arXiv:2103.00020. The networks
and the tokenizer, with its vocabulary, are those of the library open_clip. Nothing is ever downloaded: the library
builds a network from numbers, and the weights come through `fewtoon.io.weights` like all others.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewtoon.errors import Problem, nearest
from fewtoon.io import weights
from fewtoon.io.files import file_hash, printable
from fewtoon.io.torchvision import declare_operators

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of OpenAI's pictures
CONFIG = "open_clip_config.json"  # beside the weights in the repositories of open_clip's models
SAFE = "the open_clip_model.safetensors of a repository such as timm/vit_base_patch32_clip_224.openai"
OPENAI = ("input_resolution", "context_length", "vocab_size")  # numbers that only OpenAI's state dicts hold

# What a network of the plain kind is made from. Others take a tokenizer that would have to be downloaded, or a
# tower of another library.
PLAIN = {
    "model_cfg": {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"},
    "vision_cfg": {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio", "ls_init_value"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"},
}


class Clip(nn.Module):
    """An image tower and a text tower, frozen, with what comes before them.

    name: of the architecture; size: side of the pictures it looks at, in px; hash: sha256 of the file; mean, std:
    colours are brought to (x - mean) / std, x from 0 to 1, before the image tower.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        name: str,
        size: int,
        hash: str,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__()
        self.network, self.tokenizer = network, tokenizer
        self.name, self.size, self.hash = name, size, hash
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1))
        self.eval().requires_grad_(False)

    def pictures(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> unit vectors (B, D); differentiable.

        Resized to `size` by a bicubic filter, averaging where it shrinks, as the networks were trained.
        """
        x = pictures.to(self.mean.dtype)
        if x.shape[-1] != self.size:
            x = F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False)
        return F.normalize(self.network.encode_image((0.5 * x + 0.5 - self.mean) / self.std), dim=1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """N texts -> unit vectors (N, D). Raises Problem for one that is empty or too long to be read whole."""
        for text in texts:
            self.check_text(text)
        with torch.no_grad():
            tokens = self.tokenizer(list(texts)).to(self.mean.device)
            return F.normalize(self.network.encode_text(tokens), dim=1)

    def check_text(self, text: str) -> None:
        """Raises Problem for a text that is empty, or too long: the library would cut it without a word."""
        most = self.tokenizer.context_length - 2  # a token marks the start, one the end
        count = len(self.tokenizer.encode(text))
        if not count:
            raise Problem(
                f"text {printable(text)!r} says nothing: write what is to be seen, as 'a smiling face'"
            )
        if count > most:
            raise Problem(
                f"text {printable(text[:40])!r}... is {count} tokens long, and this CLIP reads {most}, about that many "
                "words: shorten it"
            )


def load(path: str | Path, model: str | None = None, device: torch.device | str = "cpu") -> Clip:
    """CLIP from a weights file: safetensors, or a torch file of tensors alone, in the layout of open_clip or OpenAI.

    model: the name of its architecture in open_clip, as 'ViT-B-32-quickgelu'. None: as `open_clip_config.json` in the
    same folder says, or as the shapes of the tensors tell. Raises Problem for a missing, torn or hostile file, for one
    of another network, where it stays open which activation it was trained with, and without the library.
    """
    path = Path(path)
    told = f"CLIP file {printable(path)!r}"
    tensors, library, beside, config, name = _read(path, model, told)
    pixels = beside.get("preprocess_cfg") or {}
    try:
        with torch.device("meta"):  # no memory before the tensors are known to fit
            network = library.CLIP(**config)
        mean, std = _colours(pixels.get("mean") or MEAN), _colours(pixels.get("std") or STD)
    except Exception as error:  # a config may break any line of the library
        raise Problem(f"{told}: its {CONFIG} describes no network ({error}); name --clip-model") from None
    shape = network.logit_scale.shape
    if "logit_scale" in tensors and tensors["logit_scale"].numel() == 1:
        tensors["logit_scale"] = tensors["logit_scale"].reshape(shape)
    weights.fill(network, tensors, f"{told} of {name}")
    if not all(torch.isfinite(tensor).all() for tensor in network.state_dict().values()):
        raise Problem(f"{told} holds numbers that are not finite; copy it again")
    # The one buffer that is in no file: each token looks at those before it.
    length = network.context_length
    network.attn_mask = torch.full((length, length), -math.inf).triu_(1)
    tokenizer = library.SimpleTokenizer(context_length=length)
    if network.vocab_size != tokenizer.vocab_size:
        raise Problem(
            f"{told} has {network.vocab_size} words, its tokenizer {tokenizer.vocab_size}: take a CLIP for English"
        )
    size = int(config["vision_cfg"]["image_size"])
    return Clip(network, tokenizer, name, size, file_hash(path), mean, std).to(device)


def check(path: str | Path, model: str | None = None) -> None:
    """Raises Problem as `load` does, for all but the numbers themselves: no network is made."""
    _read(Path(path), model, f"CLIP file {printable(path)!r}")


def _read(
    path: Path, model: str | None, told: str
) -> tuple[dict[str, Tensor], Any, dict[str, Any], dict[str, Any], str]:
    """Tensors of the network, the library, what lies beside the file, the config of the network, and its name."""
    tensors = _tensors(path)
    library = _library()
    openai = [tensors.pop(name, None) is not None for name in OPENAI]
    beside = _beside(path)
    config, name = _architecture(_layout(tensors, told), model, beside, any(openai), library, told)
    return tensors, library, beside, config, name


def _library() -> Any:
    """open_clip. Raises Problem where it is missing."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read by a library below it when that is first imported
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    declare_operators()
    try:
        import open_clip
    except (ImportError, OSError, RuntimeError) as error:  # or a torchvision that does not fit torch
        raise Problem(f"CLIP takes the library open_clip ({error}): pip install 'fewtoon[clip]'") from None
    return open_clip


# --- the file --------------------------------------------------------------------------------------------


def _tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in the file, or in the checkpoint of a training. Raises Problem for anything else."""
    told = printable(path)
    if not path.is_file():
        raise Problem(
            f"CLIP file {told!r} does not exist; fewtoon downloads none, docs/edit.md says where they are"
        )
    if path.suffix == ".safetensors":
        found: Any = weights.read(path)
    elif _is_program(path):
        raise Problem(
            f"CLIP file {told!r} was refused: it is a TorchScript archive, a program that would have to be run; "
            f"take {SAFE}"
        )
    else:
        found = weights.read_torch(path)
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()
    ):
        raise Problem(f"CLIP file {told!r} is no state dict of tensors; take {SAFE}")
    return {key.removeprefix(weights.PARALLEL): value for key, value in found.items()}


def _is_program(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _beside(path: Path) -> dict[str, Any]:
    """The config in the folder of the file, {} where there is none."""
    try:
        text = (path.parent / CONFIG).read_text(encoding="utf-8")
        found = json.loads(text)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(part, dict) for part in found.values()):
        told = printable(path.parent / CONFIG)
        raise Problem(f"{told!r} cannot be read; copy it again, or move it away and name --clip-model")
    return found


def _colours(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


# --- which network it is of ------------------------------------------------------------------------------


class Layout(NamedTuple):
    """The sizes that a state dict shows."""

    layers: tuple[int, ...]  # of the image tower; of a ResNet, of each of its four stages
    width: int
    patch: int | None  # None: a ResNet
    size: int  # of the pictures, in px
    embedding: int  # length of the vectors
    text_layers: int
    text_width: int
    context: int
    vocabulary: int

    def __str__(self) -> str:
        kind = "ResNet" if self.patch is None else f"ViT of {self.patch} px patches"
        depth = "-".join(map(str, self.layers))
        return f"a {kind}, width {self.width}, {depth} layers, {self.size} px, vectors of {self.embedding}"


def _layout(tensors: Mapping[str, Tensor], told: str) -> Layout:
    """Raises Problem for the tensors of another network, and names the one that it looks like."""
    if any(name.startswith(("text_model.", "vision_model.")) for name in tensors):
        raise Problem(f"{told} is in the layout of the library transformers, not of open_clip; take {SAFE}")
    text, image = "token_embedding.weight" in tensors, "visual.conv1.weight" in tensors
    if any(name.startswith(("text.", "visual.trunk.")) for name in tensors):
        raise Problem(f"{told} has towers of another kind than CLIP's own (as SigLIP or EVA); take {SAFE}")
    if text != image:
        had, lacks = ("a text tower", "image tower") if text else ("an image tower", "text tower")
        raise Problem(f"{told} has {had} and no {lacks}; take the file of both")
    if not text:
        raise Problem(f"{told} holds no CLIP but {next(iter(tensors), 'nothing')!r} ...; take {SAFE}")

    def count(start: str) -> int:
        return len({name[len(start) :].split(".")[0] for name in tensors if name.startswith(start)})

    try:
        words = tensors["token_embedding.weight"].shape
        common = (
            tensors["text_projection"].shape[1],
            count("transformer.resblocks."),
            words[1],
            tensors["positional_embedding"].shape[0],
            words[0],
        )
        if "visual.positional_embedding" in tensors:
            width, _, patch, _ = tensors["visual.conv1.weight"].shape
            side = math.isqrt(tensors["visual.positional_embedding"].shape[0] - 1)
            return Layout((count("visual.transformer.resblocks."),), width, patch, side * patch, *common)
        side = math.isqrt(tensors["visual.attnpool.positional_embedding"].shape[0] - 1)
        stages = tuple(count(f"visual.layer{number}.") for number in (1, 2, 3, 4))
        return Layout(stages, tensors["visual.layer1.0.conv1.weight"].shape[0], None, side * 32, *common)
    except (KeyError, ValueError, IndexError) as error:
        raise Problem(f"{told} is of another network than CLIP ({error}); take {SAFE}") from None


def _planned(config: Any) -> Layout | None:
    """The layout of a config of the plain kind; None for any other."""
    try:
        image, text = config["vision_cfg"], config["text_cfg"]
        parts = {"model_cfg": config, "vision_cfg": image, "text_cfg": text}
        if any(set(part) - PLAIN[name] for name, part in parts.items()):
            return None
        depth = image["layers"]
        layers = tuple(depth) if isinstance(depth, list) else (depth,)
        patch = None if len(layers) > 1 else image["patch_size"]
        shape = (layers, image["width"], patch, image["image_size"], config["embed_dim"])
        return Layout(
            *shape,
            text["layers"],
            text["width"],
            text.get("context_length", 77),
            text.get("vocab_size", 49408),
        )
    except (KeyError, TypeError):
        return None


def _architecture(
    layout: Layout, model: str | None, beside: Mapping[str, Any], openai: bool, library: Any, told: str
) -> tuple[dict[str, Any], str]:
    """The config and the name of what the file is of. Raises Problem where it does not fit, or is not clear."""
    known = {
        name: config
        for name in library.list_models()
        if _planned(config := library.get_model_config(name)) is not None
    }
    fitting = [name for name, config in known.items() if _planned(config) == layout]
    seems = f"it seems to be {' or '.join(fitting)}" if fitting else f"it is {layout}"
    if model is not None:
        if model not in known:
            raise Problem(f"--clip-model {printable(model)!r}: no such CLIP; {nearest(model, known)}")
        if model not in fitting:
            raise Problem(f"{told} is of other sizes than {model}: {seems}")
        return known[model], model
    if "model_cfg" in beside:
        config = beside["model_cfg"]
        if _planned(config) is None:
            raise Problem(f"{told}: the {CONFIG} beside it is of no CLIP that is read here; take {SAFE}")
        if _planned(config) != layout:
            raise Problem(
                f"{told} is of other sizes than the {CONFIG} beside it says; {seems}: name --clip-model"
            )
        twin = [
            name for name in fitting if bool(known[name].get("quick_gelu")) == bool(config.get("quick_gelu"))
        ]
        return dict(config), twin[0] if twin else CONFIG
    if openai:
        fitting = [name for name in fitting if known[name].get("quick_gelu")] or fitting
    if not fitting:
        raise Problem(
            f"{told} is of no CLIP that open_clip knows: it is {layout}; put its {CONFIG} beside it"
        )
    if len(fitting) > 1:
        raise Problem(
            f"{told} does not tell its activation: say --clip-model {fitting[-1]} for weights of OpenAI, MetaCLIP or "
            f"DFN, --clip-model {fitting[0]} for those of LAION or DataComp"
        )
    return known[fitting[0]], fitting[0]

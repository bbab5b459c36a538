"""Importers: checkpoints of other systems become Styles. Tensors are read, nothing is executed.

The variant is detected from the shapes, every tensor must find its place, and `describe` says what was found.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewtoon.errors import Problem
from fewtoon.io import weights
from fewtoon.io.files import file_hash

# Their names for the six networks -> ours.
NETWORKS = {
    "genA2B": "photo_to_drawing",
    "genB2A": "drawing_to_photo",
    "disGA": "photos_global",
    "disLA": "photos_local",
    "disGB": "drawings_global",
    "disLB": "drawings_local",
}

# How photo2cartoon cut its photos out; the others learned from crops of any kind.
PORTRAITS = {"framing": "portrait", "pad": "white", "whiten": "mediapipe"}

Rule = tuple[str, str]  # (pattern of their key, our key with \1 ...)

_CAM: list[Rule] = [
    (r"gap_fc\.(weight|bias)", r"cam.average.\1"),
    (r"gmp_fc\.(weight|bias)", r"cam.maximum.\1"),
    (r"conv1x1\.(weight|bias)", r"cam.mix.\1"),
    (r"FC\.0\.(weight|bias)", r"style1.\1"),
    (r"FC\.2\.(weight|bias)", r"style2.\1"),
]

UGATIT_GENERATOR: list[Rule] = [
    *_CAM,
    (r"DownBlock\.1\.weight", "stem.weight"),
    (r"DownBlock\.5\.weight", "down1.weight"),
    (r"DownBlock\.9\.weight", "down2.weight"),
    (r"DownBlock\.(\d{1,3})\.conv_block\.1\.weight", r"encoder.<\1-12>.conv1.weight"),
    (r"DownBlock\.(\d{1,3})\.conv_block\.5\.weight", r"encoder.<\1-12>.conv2.weight"),
    (r"(gamma|beta)\.weight", r"\1.weight"),
    (r"UpBlock1_(\d{1,3})\.(conv[12])\.weight", r"decoder.<\1-1>.\2.weight"),
    (r"UpBlock1_(\d{1,3})\.(norm[12])\.rho", r"decoder.<\1-1>.\2.rho"),
    (r"UpBlock2\.2\.weight", "up1.weight"),
    (r"UpBlock2\.3\.(rho|gamma|beta)", r"up1_norm.\1"),
    (r"UpBlock2\.7\.weight", "up2.weight"),
    (r"UpBlock2\.8\.(rho|gamma|beta)", r"up2_norm.\1"),
    (r"UpBlock2\.11\.weight", "head.weight"),
]

_GLASS = r"HourGlass(\d)\.HG\.0\.ConvBlock"
PHOTO2CARTOON_GENERATOR: list[Rule] = [
    *_CAM,
    (r"ConvBlock1\.1\.weight", "stem.weight"),
    (rf"{_GLASS}([1-4])_1\.ConvBlock([123])\.3\.weight", r"glass\1.skips.<\2-1>.conv\3.weight"),
    (rf"{_GLASS}([1-4])_2\.ConvBlock([123])\.3\.weight", r"glass\1.downs.<\2-1>.conv\3.weight"),
    (rf"{_GLASS}5\.ConvBlock([123])\.3\.weight", r"glass\1.centre.conv\2.weight"),
    (rf"{_GLASS}([6-9])\.ConvBlock([123])\.3\.weight", r"glass\1.ups.<\2-6>.conv\3.weight"),
    (r"HourGlass(\d)\.HG\.1\.ConvBlock([123])\.3\.weight", r"glass\1.after.conv\2.weight"),
    (r"HourGlass\d\.HG\.\d\.(ConvBlock\d(_\d)?\.)?ConvBlock4\..*", ""),  # in the file, never used
    (r"HourGlass(\d)\.HG\.2\.weight", r"glass\1.squeeze.weight"),
    (r"HourGlass(\d)\.Conv1\.(weight|bias)", r"glass\1.rgb.\2"),
    (r"HourGlass(\d)\.Conv2\.(weight|bias)", r"glass\1.back.\2"),
    (r"HourGlass(\d)\.Conv3\.(weight|bias)", r"glass\1.rgb_back.\2"),
    (r"DownBlock([12])\.1\.weight", r"down\1.weight"),
    (r"EncodeBlock(\d)\.conv_block\.1\.weight", r"encoder.<\1-1>.conv1.weight"),
    (r"EncodeBlock(\d)\.conv_block\.5\.weight", r"encoder.<\1-1>.conv2.weight"),
    (r"DecodeBlock(\d)\.(conv[12])\.weight", r"decoder.<\1-1>.\2.weight"),
    (r"DecodeBlock(\d)\.(norm[12])\.norm\.rho", r"decoder.<\1-1>.\2.rho"),
    (r"DecodeBlock(\d)\.(norm[12])\.(w_gamma|w_beta)", r"decoder.<\1-1>.\2.\3"),
    (r"DecodeBlock(\d)\.(norm[12])\.c_(gamma|beta)\.([02]\.\w+)", r"decoder.<\1-1>.\2.content_\3.\4"),
    (r"DecodeBlock(\d)\.(norm[12])\.s_(gamma|beta)\.(\w+)", r"decoder.<\1-1>.\2.style_\3.\4"),
    (r"UpBlock([12])\.2\.weight", r"up\1.weight"),
    (r"UpBlock([12])\.3\.(rho|gamma|beta)", r"up\1_norm.\2"),
    (r"ConvBlock2\.1\.weight", "head.weight"),
]

_SN = r"\.(?:weight_orig|parametrizations\.weight\.original)"
DISCRIMINATOR: list[Rule] = [
    (r"conv1x1\.(weight|bias)", r"mix.\1"),
    *(
        rule
        for theirs, ours in (
            (r"model\.(\d{1,3})", r"convs.<\1/3>"),
            (r"(gap)_fc", "cam_average"),
            (r"(gmp)_fc", "cam_maximum"),
            (r"(group)_classfier", "group"),
            (r"(conv)_cls", "group"),
            (r"(conv)", "last"),
        )
        for rule in (
            (theirs + _SN, ours + ".weight"),
            (theirs + r"\.(?:weight_|parametrizations\.weight\.0\._)u", ours + ".u"),
            (theirs + r"\.(?:weight_|parametrizations\.weight\.0\._)v", ours + ".v"),
            (theirs + r"\.bias", ours + ".bias"),
        )
    ),
]

# What every group of few_shot_face2cartoon has for itself, the first under the plain name, and the linear layers
# with a row for each group.
BRANCHED = ("ConvBlock1", "HourGlass1", "HourGlass4", "ConvBlock2")
_BRANCH = re.compile(rf"({'|'.join(BRANCHED)})_([1-9]\d{{0,3}})\.(.+)")
_ROWS = re.compile(r"(gap_fc|gmp_fc)_new\.(weight|bias)")

GENERATOR_RULES: dict[str, list[Rule]] = {"resnet": UGATIT_GENERATOR, "hourglass": PHOTO2CARTOON_GENERATOR}


class Found(NamedTuple):
    """What a foreign checkpoint holds, in fewtoon's terms."""

    system: str  # 'U-GAT-IT', 'Face2Webtoon', 'photo2cartoon' or 'few_shot_face2cartoon'
    model: dict[str, Any]  # settings of the ugatit method, or of groups where there are groups
    size: int | None  # None: the weights work at any size
    networks: dict[str, dict[str, Tensor]]  # our network name -> our key -> tensor
    groups: int = 0  # that the generators have branches for; 0: they know no groups

    def describe(self) -> str:
        kind = "light" if self.model["pool"] else f"full, {self.size} px"
        branches = f", {self.groups} groups" if self.groups else ""
        names = ", ".join(sorted(self.networks))
        count = sum(t.numel() for tensors in self.networks.values() for t in tensors.values())
        return (
            f"{self.system}, {kind}{branches}, {self.model['channels']} channels, "
            f"{self.model['blocks']} residual blocks, {count / 1e6:.2f} M numbers in {names}"
        )


def read(path: str | Path) -> Found:
    """Detect and read a U-GAT-IT, Face2Webtoon, photo2cartoon or few_shot_face2cartoon checkpoint. Raises
    Problem for anything else."""
    tree = weights.read_torch(path)
    if not isinstance(tree, dict) or "genA2B" not in tree:
        keys = ", ".join(map(repr, list(tree)[:5])) if isinstance(tree, dict) else type(tree).__name__
        raise Problem(
            f"{str(path)!r} is no checkpoint that fewtoon knows (it holds {keys}); known: U-GAT-IT, Face2Webtoon, "
            "photo2cartoon and few_shot_face2cartoon files with 'genA2B'"
        )
    states: dict[str, Mapping[str, Tensor]] = {}
    for name, state in tree.items():
        if name not in NETWORKS:
            raise Problem(f"{str(path)!r}: unknown network {name!r}; known: {', '.join(NETWORKS)}")
        if not isinstance(state, Mapping) or not all(map(weights.whole, state.values())):
            raise Problem(f"{str(path)!r}: {name!r} is not a state dict of tensors")
        states[name] = {str(k).removeprefix("module."): v.float() for k, v in state.items()}

    model, size = _variant(states["genA2B"], str(path))
    rules = GENERATOR_RULES[model["generator"]]
    groups = _group_count(states["genA2B"], str(path))
    if groups:
        model |= {"generator_groups": "branches", "gradients": "all", "reader_weight": 0.0}
    networks: dict[str, dict[str, Tensor]] = {}
    for name, state in states.items():
        what = f"{str(path)!r}: {name}"
        if name.startswith("dis"):
            networks[NETWORKS[name]] = renamed(state, DISCRIMINATOR, what)
        elif groups:
            networks[NETWORKS[name]] = _with_branches(state, rules, groups, what)
        else:
            networks[NETWORKS[name]] = renamed(state, rules, what)
    return Found(_system(model, groups, states), model, size, networks, groups)


def import_style(
    path: str | Path, out: str | Path, size: int | None = None, groups: Sequence[str] | None = None
) -> str:
    """Write the generators of a foreign checkpoint as a Style; returns one line that says what was found.

    A StyleGAN2 checkpoint's discriminator comes along, for trainings that begin with it.
    size: side of the pictures for weights that work at any size (default 256). groups: names for the groups of
    a checkpoint with a branch for each, in its order (default "0", "1" ...). Raises Problem.
    """
    from fewtoon import config, methods, style
    from fewtoon.io import stylegan

    if Path(out).exists() and Path(path).exists() and Path(out).samefile(path):
        raise Problem(f"--out {str(out)!r} is the checkpoint itself; name another file for the style")
    if stylegan.looks_like_one(path):
        return _import_generator(path, out, size, groups)
    found = read(path)
    if size is not None and found.size is not None and size != found.size:
        raise Problem(f"--size {size}: these full weights work at {found.size} px only; leave --size away")
    names = _group_names(found.groups, groups, str(path))
    kind = methods.find("groups" if names else "ugatit")
    model = {**found.model, "base": names[0]} if names else found.model
    settings = config.section(kind.Config, model, "model")
    with torch.device("meta"):  # no memory, and no first weights, before the tensors are known to fit
        method = kind(settings, found.size or (256 if size is None else size), names, training=False)
    own = method.networks()
    for name in list(own):
        if name not in found.networks:
            if name == "photo_to_drawing":
                raise Problem(f"{str(path)!r} holds no genA2B")
            del own[name]
            continue
        weights.fill(own[name], found.networks[name], f"{str(path)!r}, {name}")
    digest = file_hash(path)
    style.write(
        out,
        method,
        {
            "source": {"system": found.system, "file": Path(path).name, "sha256": digest},
            **(PORTRAITS if found.model["generator"] == "hourglass" else {}),
        },
    )
    return found.describe()


def _import_generator(
    path: str | Path, out: str | Path, size: int | None, groups: Sequence[str] | None
) -> str:
    """`import_style` of a StyleGAN2 checkpoint."""
    from fewtoon import config, methods, style
    from fewtoon.io import stylegan
    from fewtoon.methods.stylegan import StyleGAN

    found = stylegan.read(path)
    if size is not None and size != found.size:
        raise Problem(f"--size {size}: these weights make pictures of {found.size} px; leave --size away")
    settings = dict(found.model)
    classes = settings.pop("classes")
    if groups is not None and not classes:
        raise Problem(f"--groups {','.join(groups)!r}: {str(path)!r} has no classes; leave --groups away")
    names = _group_names(classes, groups, str(path)) if classes else []
    kind = methods.find("stylegan")
    model = config.section(kind.Config, {**settings, "conditional": bool(classes)}, "model")
    with torch.device("meta"):
        method = kind(model, found.size, names, training=False)
    assert isinstance(method, StyleGAN)
    drawer = found.networks["generator"]
    if "average" in found.lacks:
        drawer["mapping.average"] = torch.zeros(settings["style"])
    weights.fill(method.generator, drawer, f"{str(path)!r}, the generator")
    difference = stylegan.verify(found, method.generator)
    if "average" in found.lacks:
        method.generator.mapping.average.copy_(method.generator.mapping.measure())
    facts = {"source": {"system": found.system, "file": Path(path).name, "sha256": file_hash(path)}}
    extra = {name: state for name, state in found.networks.items() if name != "generator"}
    style.write(out, method, facts, extra)
    return f"{found.describe()}; draws as the file's own tensors to {max(difference):.0e}"


def renamed(state: Mapping[str, Tensor], rules: list[Rule], what: str) -> dict[str, Tensor]:
    """Their state dict under our names, shapes as ours. Raises Problem for a key that no rule knows."""
    compiled = [(re.compile(pattern), target) for pattern, target in rules]
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        for pattern, target in compiled:  # noqa: B007
            match = pattern.fullmatch(key)
            if match:
                break
        else:
            raise Problem(f"{what} has a tensor {key!r} that no known version has")
        if target:
            name = _evaluate(match.expand(target))
            out[name] = _reshaped(name, tensor, state, key)
    return out


def _with_branches(
    state: Mapping[str, Tensor], rules: list[Rule], groups: int, what: str
) -> dict[str, Tensor]:
    """A generator with branches under the names of `fewtoon.nets.branches.Branches`, the first group as the
    rich one. Raises Problem where a branch or a row is missing or too many."""
    expected = {(name, number) for name in BRANCHED for number in range(1, groups)}
    found = {(match[1], int(match[2])) for key in state if (match := _BRANCH.fullmatch(key))}
    for name, number in sorted(expected ^ found):
        has = "no" if (name, number) in expected else "an extra"
        raise Problem(
            f"{what} has {has} branch '{name}_{number}', but is made for {groups} groups; copy the file again"
        )
    grown: dict[str, Tensor] = {}
    for number, own in enumerate(_by_group(state, groups, what)):
        for key, tensor in renamed(own, rules, what).items():
            # The copies of the other groups lie in a ModuleDict, whose keys cannot have dots.
            ours = f"others.{number}.{key.replace('cam.', 'cam-', 1)}" if number else f"generator.{key}"
            grown[ours] = tensor
    return grown


def _by_group(state: Mapping[str, Tensor], groups: int, what: str) -> list[dict[str, Tensor]]:
    """Each group's own tensors, as a generator without branches names them; the trunk goes with the first."""
    parts: list[dict[str, Tensor]] = [{} for _ in range(groups)]
    for key, tensor in state.items():
        if match := _ROWS.fullmatch(key):
            if tensor.ndim == 0 or len(tensor) != groups:
                raise Problem(
                    f"{what}: {key!r} has shape {tuple(tensor.shape)}, expected {groups} rows, one for each group"
                )
            for part, row in zip(parts, tensor.split(1)):
                part[f"{match[1]}.{match[2]}"] = row
        elif match := _BRANCH.fullmatch(key):
            parts[int(match[2])][f"{match[1]}.{match[3]}"] = tensor
        elif key.startswith(("gap_fc.", "gmp_fc.")):
            raise Problem(f"{what} has {key!r} beside the rows of groups, which no known version has")
        else:
            parts[0][key] = tensor
    return parts


def _evaluate(name: str) -> str:
    """'<14-12>' -> '2': the little arithmetic of layer numbers."""
    steps: dict[str, Callable[[int, int], int]] = {"-": lambda a, b: a - b, "/": lambda a, b: a // b}
    return re.sub(r"<(\d+)([-/])(\d+)>", lambda m: str(steps[m[2]](int(m[1]), int(m[3]))), name)


def _reshaped(name: str, tensor: Tensor, state: Mapping[str, Tensor], key: str) -> Tensor:
    last = name.rsplit(".", 1)[-1]
    if last in ("rho", "gamma", "beta", "w_gamma", "w_beta"):
        return tensor.flatten()  # theirs: (1, C, 1, 1) or (1, C)
    if name.endswith(("mix.weight", "group.weight")):
        return tensor.flatten(1) if tensor.ndim > 1 else tensor  # theirs: a 1x1 convolution
    if last == "v":  # theirs runs over (input, row, column), ours over (row, column, input)
        weight = state.get(re.sub(r"weight_v$", "weight_orig", re.sub(r"0\._v$", "original", key)))
        if weight is not None and weight.ndim == 4 and tensor.numel() == weight[0].numel():
            i, kh, kw = weight.shape[1:]
            return tensor.reshape(i, kh, kw).permute(1, 2, 0).flatten()
    return tensor


def _variant(generator: Mapping[str, Tensor], path: str) -> tuple[dict[str, Any], int | None]:
    """Settings and, for full weights, the picture size, from the shapes of a generator."""
    hourglass = "ConvBlock1.1.weight" in generator
    stem = generator.get("ConvBlock1.1.weight" if hourglass else "DownBlock.1.weight")
    first = generator.get("FC.0.weight")
    if stem is None or first is None or stem.ndim != 4 or first.ndim != 2 or not len(stem):
        raise Problem(f"{path!r}: genA2B is neither U-GAT-IT's nor photo2cartoon's generator")
    pattern = r"EncodeBlock(\d+)\." if hourglass else r"DownBlock\.(\d+)\.conv_block"
    blocks = len({m[1] for key in generator if (m := re.match(pattern, key))})
    channels = stem.shape[0]
    light = first.shape[1] == 4 * channels
    size = None if light else 4 * math.isqrt(first.shape[1] // (4 * channels))
    model = {
        "generator": "hourglass" if hourglass else "resnet",
        "channels": channels,
        "blocks": blocks,
        "pool": 1 if light else None,
        "published_attention": True,
    }
    return model, size


def _group_count(generator: Mapping[str, Tensor], path: str) -> int:
    """How many groups a generator with branches has; 0: it has none."""
    rows = generator.get("gap_fc_new.weight")
    if rows is None:
        branch = next((key for key in generator if _BRANCH.fullmatch(key)), None)
        if branch is None:
            return 0
        raise Problem(
            f"{path!r}: genA2B has the branch {branch!r} but no 'gap_fc_new.weight', as few-shot group "
            "checkpoints have; copy the file again"
        )
    if rows.ndim != 2 or len(rows) < 2:
        raise Problem(
            f"{path!r}: 'gap_fc_new.weight' of a few-shot group checkpoint has shape {tuple(rows.shape)}, expected "
            "at least 2 rows, one for each group"
        )
    return len(rows)


def _system(model: Mapping[str, Any], groups: int, states: Mapping[str, Mapping[str, Tensor]]) -> str:
    if groups:
        return "few_shot_face2cartoon"
    if model["generator"] == "hourglass":
        return "photo2cartoon"
    told = any(key.startswith("group_classfier.") for key in states.get("disGB", {}))
    return "Face2Webtoon" if told else "U-GAT-IT"


def _group_names(count: int, given: Sequence[str] | None, path: str) -> list[str]:
    """One name for each of `count` groups. Raises Problem for names that do not fit."""
    from fewtoon.data.labels import RESERVED
    from fewtoon.style import AUTO

    if given is None:
        return [str(number) for number in range(count)]
    told = f"--groups {','.join(given)!r}"
    if not count:
        raise Problem(f"{told}: {path!r} has no branches for groups; leave --groups away")
    if len(given) != count:
        raise Problem(f"{told}: {path!r} needs {count} names, one for each of its groups, not {len(given)}")
    if len(set(given)) < count or not all(name.strip() for name in given):
        raise Problem(f"{told}: every group needs a name of its own")
    for name in {*RESERVED, AUTO} & set(given):
        raise Problem(
            f"{told}: no group can be called {name!r}, which means something else; choose another name"
        )
    return list(given)

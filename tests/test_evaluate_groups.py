"""A style that draws each group in a way of its own: told the groups of the photos, or reading them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewtoon import evaluate
from fewtoon.data.pack import Pack
from fewtoon.errors import Problem
from fewtoon.methods.groups import Groups
from fewtoon.style import Style

NAMES = ["hats", "no_hats"]


def faces(count: int) -> tuple[np.ndarray, list[str]]:
    """Noise (count, 32, 32, 3); every other picture has a dark bar at the top, and is of "hats"."""
    pictures = np.random.default_rng(0).integers(100, 150, (count, 32, 32, 3), dtype=np.uint8)
    pictures[::2, :6] = 0
    return pictures, [NAMES[i % 2] for i in range(count)]


def pack(side: str) -> Pack:
    pictures, groups = faces(60)
    splits = ["held_out" if i >= 40 else "train" for i in range(60)]
    return Pack.from_arrays(pictures, side, groups, splits, [f"{i}.png" for i in range(60)])


@pytest.fixture(scope="module")
def style() -> Style:
    """A generator that knows two groups, and a reader that confuses none; it draws one of them all wrong."""
    torch.manual_seed(0)
    method = Groups(Groups.Config(channels=4, blocks=1, reader_steps=60), 32, NAMES, training=False)
    pictures, groups = faces(60)
    numbers = torch.tensor([NAMES.index(group) for group in groups])
    method.learn_first(lambda side: (torch.from_numpy(pictures), numbers), 0, print)
    return Style(method, {}, "cpu", "fp32")


def seen(style: Style, monkeypatch: pytest.MonkeyPatch, **settings) -> tuple[dict, list]:
    asked = []
    draw = style.translate
    monkeypatch.setattr(
        style, "translate", lambda photos, group=None: (asked.append(group), draw(photos, group))[1]
    )
    return evaluate(style, pack("photos"), pack("drawings"), **settings), asked


def test_told_read_or_all_as_one(style, monkeypatch):
    told, asked = seen(style, monkeypatch)
    assert set(asked) == {*NAMES}
    assert told["protocol"]["groups"] == "told to the style, as labelled, where it knows them"
    assert "read_right" not in told["metrics"]["all"]
    read, asked = seen(style, monkeypatch, group="auto")
    assert set(asked) == {*NAMES}
    assert read["protocol"]["groups"] == "read by the style from the photos"
    assert read["metrics"]["all"]["read_right"] > 0.9
    assert set(read["metrics"]["all"]["attributes"]) == {"hats"}
    one, asked = seen(style, monkeypatch, group="hats")
    assert set(asked) == {"hats"}
    assert one["protocol"]["groups"] == "everybody drawn as hats"


def test_a_reader_that_is_wrong_is_told_so(style, monkeypatch):
    monkeypatch.setattr(style, "guess", lambda photos: ["hats"] * len(photos))
    result, _ = seen(style, monkeypatch, group="auto")
    shares = {name: entry["read_right"] for name, entry in result["metrics"].items()}
    assert shares == {"all": 0.5, "hats": 1.0, "no_hats": 0.0}


def test_unknown_groups(style):
    with pytest.raises(Problem, match="no group 'hat'; did you mean 'hats'"):
        evaluate(style, pack("photos"), pack("drawings"), group="hat")


def test_groups_that_the_style_or_the_drawings_do_not_have_are_told(style):
    pictures, groups = faces(60)
    splits = ["held_out" if i >= 40 else "train" for i in range(60)]
    other = ["caps" if group == "hats" else "no_caps" for group in groups]
    photos = Pack.from_arrays(pictures, "photos", other, splits, [f"{i}.png" for i in range(60)])
    result = evaluate(style, photos, pack("drawings"), group="auto")
    assert result["metrics"]["all"]["read_right"] is None
    told = "\n".join(result["warnings"])
    assert "does not know the groups caps, no_caps" in told
    assert "no group in common" in told
    assert "caps: the photos differ in it" in told


def test_a_bad_table_leaves_no_folder(style, tmp_path):
    with pytest.raises(Problem, match="'berets'"):
        evaluate(
            style,
            pack("photos"),
            pack("drawings"),
            attributes={"hats": {"yes": ["berets"], "no": ["no_hats"]}},
            out=tmp_path / "e",
        )
    assert not (tmp_path / "e").exists()


def test_a_style_without_groups_takes_auto_for_nothing_to_do(tmp_path):
    method = Groups(Groups.Config(channels=4, blocks=1, generator_groups="none"), 32, NAMES, training=False)
    plain = Style(method, {}, "cpu", "fp32")
    photos = torch.rand(2, 3, 32, 32)
    assert torch.equal(plain.translate(photos, "auto"), plain.translate(photos))
    with pytest.raises(Problem, match="alike"):
        plain.translate(photos, "hats")

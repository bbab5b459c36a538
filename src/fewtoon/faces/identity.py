"""Face-ID: is it one person? Faces cut out as recognition networks know them, and their unit vectors.

The chain is tested as a whole (tests/test_identity.py): 5-point alignment, RGB, the normalisation of each
weights file. One wrong link does not fail, it only makes every cosine a little worse.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewtoon.errors import Problem
from fewtoon.faces.face import turn
from fewtoon.faces.framing import Square, cut
from fewtoon.io.files import file_hash

SIDE = 112  # pixels of an aligned face
SMALLEST = 4  # pixels of a picture that an aligned face may be made of, from side to side
CHUNK = 8  # faces per forward pass, always: kernels chosen by batch size would change the last digits

# Where recognition networks expect the five points of fewtoon.faces.face, in pixels of the aligned face
# (the template of SphereFace, widened from 96 to 112 px by ArcFace: Deng, Guo, Xue, Zafeiriou, arXiv
# 1801.07698). The literature counts from the centre of the first pixel, we from its outer corner: + 0.5.
TEMPLATE = 0.5 + np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def align(picture: NDArray[np.uint8], points: NDArray[np.floating] | None) -> NDArray[np.uint8]:
    """The face as recognition networks know it: upright, eyes and mouth where `TEMPLATE` has them.

    picture: (H, W, 3) uint8
    points: (5, 2) pixels, in the order of `fewtoon.faces.face.Face.points`
    Returns (112, 112, 3) uint8, of a large face the averages. Black where it leaves the picture, as these
    networks are used to: of faces cut by the border the mirror image makes worse vectors, and white too.
    Raises Problem for arrays of another shape or kind, and for points that are no face in this picture.
    """
    square = _square(_checked(picture, points))
    face = cut(picture, square, SIDE)
    height, width = picture.shape[:2]
    steps = ((np.arange(SIDE) + 0.5) / SIDE - 0.5) * square.side
    u, v = np.meshgrid(steps, steps)
    x, y = turn(u, v, square.roll)  # type: ignore[arg-type]
    x, y = x + square.x, y + square.y
    face[(x < 0) | (y < 0) | (x > width) | (y > height)] = 0
    return face


def _square(points: NDArray[np.floating]) -> Square:
    """What the aligned face shows of the picture.

    Points are fitted to the template, as everywhere in the literature. The other way is not the inverse of
    it: turned faces would come out larger.
    """
    linear, shift = similarity(points, TEMPLATE)
    scale, roll = math.hypot(*linear[:, 0]), -math.degrees(math.atan2(linear[1, 0], linear[0, 0]))
    x, y = np.linalg.solve(linear, np.full(2, SIDE / 2) - shift)
    return Square(float(x), float(y), SIDE / scale, roll)


def similarity(
    source: NDArray[np.floating], target: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The turn, scale and shift (no mirroring) that bring `source` (N, 2) nearest to `target` (N, 2) in
    least squares: (2, 2) and (2,) with target ~ source @ linear.T + shift.

    Umeyama: Least-squares estimation of transformation parameters between two point patterns, PAMI 1991.
    In the plane it has this closed form: with both as complex numbers about their means, the linear part
    is the regression coefficient of the target on the source.
    """
    from_mean, to_mean = source.mean(0), target.mean(0)
    (x, y), (u, v) = (source - from_mean).T, (target - to_mean).T
    spread = float((x * x + y * y).sum())
    real, imaginary = float((x * u + y * v).sum()) / spread, float((x * v - y * u).sum()) / spread
    linear = np.array([[real, -imaginary], [imaginary, real]])
    return linear, to_mean - linear @ from_mean


def _checked(picture: NDArray[np.uint8], points: NDArray[np.floating] | None) -> NDArray[np.floating]:
    """The points, which are a face in this picture; or Problem."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise Problem(
            f"a picture must be (H, W, 3) uint8, this one is {picture.shape} {picture.dtype}: read it "
            "with fewtoon.io.images.read"
        )
    if points is None or np.shape(points) != (5, 2):
        raise Problem(
            f"Face-ID needs 5 points (x, y) of a face, this is {'None' if points is None else np.shape(points)}: "
            "use a finder that gives them"
        )
    told = " ".join(f"({x:.4g}, {y:.4g})" for x, y in points)
    linear, _ = similarity(TEMPLATE, points)  # 0 where the points lie in one place
    if not math.hypot(linear[0, 0], linear[1, 0]) * SIDE >= SMALLEST:
        raise Problem(f"the 5 points {told} do not form a face of {SMALLEST} px or more: find it again")
    height, width = picture.shape[:2]
    if not ((points >= 0) & (points <= (width, height))).all(1).any():
        raise Problem(
            f"the 5 points {told} lie outside the picture of {width} x {height} px: find them again"
        )
    return points


class FaceId:
    """A face recognition network with its alignment.

    name: of the network; hash: sha256 of its weights file, first 12 hexadecimal digits; dim: of a vector.
    Raises Problem for a file that is missing, torn, hostile or of another network.
    """

    def __init__(self, path: str | Path) -> None:
        from fewtoon.nets import mobilefacenet

        self._network = mobilefacenet.load(path)
        self.name = "mobilefacenet"
        self.hash = file_hash(path)[:12]
        self.dim = self._network.dim

    def embed(
        self, faces: Iterable[tuple[NDArray[np.uint8], NDArray[np.floating] | None]]
    ) -> NDArray[np.float32]:
        """Unit vectors (N, dim) of N faces, each (picture (H, W, 3) uint8 RGB, points (5, 2)).

        The dot product of two is the cosine that says whether it is one person. Pictures are taken one by
        one, so `faces` may be a generator over any number of them. Raises Problem as `align` does.
        """
        return self.embed_aligned(align(picture, points) for picture, points in faces)

    def embed_aligned(self, faces: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Unit vectors (N, dim) of faces that `align` has cut out, (112, 112, 3) uint8 RGB each."""
        found = [np.empty((0, self.dim), np.float32)]
        waiting: list[NDArray[np.uint8]] = []
        for face in faces:
            if face.shape != (SIDE, SIDE, 3) or face.dtype != np.uint8:
                raise Problem(
                    f"an aligned face is ({SIDE}, {SIDE}, 3) uint8, this is {face.shape} {face.dtype}"
                )
            waiting.append(face)
            if len(waiting) == CHUNK:
                found.append(self._forward(waiting))
                waiting = []
        if waiting:
            found.append(self._forward(waiting))
        return np.concatenate(found)

    def _forward(self, faces: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        import torch

        full = np.zeros((CHUNK, SIDE, SIDE, 3), np.uint8)
        full[: len(faces)] = faces
        batch = torch.from_numpy(full).permute(0, 3, 1, 2).contiguous()
        with torch.inference_mode():
            return self._network(batch.float() / 127.5 - 1.0).numpy()[: len(faces)]


@dataclass(frozen=True)
class Verification:
    """How well vectors tell whether two pictures show one person, over all pairs.

    auc: the chance that a pair of one person is more alike than a pair of two; 0.5 is guessing
    same, different: mean cosine of the pairs of one person, of two persons
    separation: `same` - `different` in units of their standard deviation (root mean square of both kinds);
        still tells networks apart where the auc is nearly 1
    accuracy: share of the pairs judged rightly at the best threshold, both kinds weighing the same
    """

    auc: float
    same: float
    different: float
    separation: float
    accuracy: float
    threshold: float
    same_pairs: int
    different_pairs: int


def verification(vectors: NDArray[np.floating], people: Sequence[str]) -> Verification:
    """From unit vectors (N, dim) and who is in each picture.

    Raises Problem unless some person has two pictures and there are two persons.
    """
    if len(vectors) != len(people):
        raise Problem(f"{len(vectors)} vectors but {len(people)} names of people: give one each")
    first, second = np.triu_indices(len(people), 1)
    names = np.asarray(people)
    cosine = np.einsum("ij,ij->i", vectors[first], vectors[second], dtype=np.float64)
    one = names[first] == names[second]
    same, different = np.sort(cosine[one]), np.sort(cosine[~one])
    if not len(same) or not len(different):
        raise Problem(
            f"{len(people)} pictures of {len(set(people))} people: verification needs two people, and two "
            "pictures of one"
        )
    # The rank statistic of Mann and Whitney; ties count half.
    below = np.searchsorted(different, same, "left") + np.searchsorted(different, same, "right")
    auc = float(below.mean() / 2 / len(different))
    thresholds = np.unique(np.concatenate([same, different]))
    right = (1 - np.searchsorted(same, thresholds) / len(same)) + np.searchsorted(
        different, thresholds
    ) / len(different)
    best = int(right.argmax())
    return Verification(
        auc,
        float(same.mean()),
        float(different.mean()),
        float((same.mean() - different.mean()) / max(np.sqrt((same.var() + different.var()) / 2), 1e-12)),
        float(right[best] / 2),
        float(thresholds[best]),
        len(same),
        len(different),
    )

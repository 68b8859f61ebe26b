"""Tensors of a state dict, taken one by one, with spectral normalisation folded in.

Spectral normalisation (Miyato et al. 2018) divides a weight W (out, everything else) by an estimate
of its largest singular value, sigma = u' W v. In evaluation nothing of it is trained on, so it is
divided once, when the file is read, in float64:

- torch's own (``weight_orig``, ``weight_u``, ``weight_v``): u and v as they are stored, without a
  power iteration;
- BigGAN-PyTorch's (``weight``, ``u0``): one power iteration from the stored u, as its code takes in
  evaluation, too, where it does not store the result: v = W'u / |W'u|, u = W v / |W v|.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from schemas.errors import CheckpointError

#: What a state dict may hold beside, and changes no image: singular values that are logged, further
#: singular vectors, and counts of batches.
_HARMLESS = re.compile(r"(^|\.)(sv\d+|u[1-9]\d*|num_batches_tracked)$")


class State:
    """Tensors by name; each is taken once, and what is left over was not understood."""

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        self._left = dict(tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def shape(self, name: str, ndim: int) -> tuple[int, ...]:
        """Shape of a tensor that is there. Raises CheckpointError for one of other axes."""
        found = self._left.get(name)
        if found is None or found.ndim != ndim or 0 in found.shape:
            told = "missing" if found is None else f"of shape {found.shape!r}"
            raise CheckpointError(
                f"tensor {name!r} is {told}, expected {ndim!r} axes: not a BigGAN of a known kind, "
                "or damaged"
            )
        return tuple(found.shape)

    def numbers(self, prefix: str) -> int:
        """How many parts, counted from 0, have names that begin with the prefix."""
        count = 0
        while any(name.startswith(f"{prefix}{count}.") for name in self._left):
            count += 1
        return count

    def take(self, name: str) -> np.ndarray:
        """A tensor as float32. Raises CheckpointError for one that is missing or holds no real
        numbers."""
        if name not in self._left:
            raise CheckpointError(f"tensor {name!r} is missing: the file is damaged or incomplete")
        value = self._left.pop(name)
        if value.dtype.kind != "f":
            raise CheckpointError(
                f"tensor {name!r} holds {value.dtype.name!r}: quantised weights need the scales of "
                "the program that made them; write them in float32, float16 or bfloat16"
            )
        with np.errstate(over="ignore"):  # what is not finite then is told with all others
            return value.astype(np.float32)

    def weight(self, at: str) -> np.ndarray:
        """The weight of a layer, divided by its spectral norm where it has one; see the module
        text."""
        if f"{at}.weight_orig" in self:
            self._left.pop(f"{at}.weight", None)  # the quotient, as some releases of torch keep it
            weight, u = self.take(f"{at}.weight_orig"), self.take(f"{at}.weight_u")
            v = self.take(f"{at}.weight_v")
        else:
            weight, v = self.take(f"{at}.weight"), None
            if f"{at}.u0" not in self:
                return weight
            u = self.take(f"{at}.u0")
        matrix, u = weight.reshape(len(weight), -1).astype(np.float64), u.reshape(-1)
        if u.shape != matrix.shape[:1] or (v is not None and v.shape != matrix.shape[1:]):
            raise CheckpointError(
                f"singular vectors of {at!r} have lengths {u.size!r} and "
                f"{None if v is None else v.size!r} for a weight of shape {weight.shape!r}: the "
                "file is damaged"
            )
        if v is None:
            v = _unit(u @ matrix)
            u = _unit(matrix @ v)
        sigma = float(u @ matrix @ v)
        if not np.isfinite(sigma) or sigma == 0.0:
            raise CheckpointError(
                f"spectral norm of {at!r} is {sigma!r}, and its weight is divided by it: the "
                "training diverged or the file is damaged; use an earlier checkpoint"
            )
        quotient: np.ndarray = (matrix / sigma).astype(np.float32)
        return quotient.reshape(weight.shape)

    def left(self) -> list[str]:
        """Names of what was not taken, but for what changes no image."""
        return sorted(name for name in self._left if not _HARMLESS.search(name))


def _unit(vector: np.ndarray) -> np.ndarray:
    found: np.ndarray = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return found


def moved_last(weight: np.ndarray, first: int) -> np.ndarray:
    """A weight whose first columns are moved to the end."""
    return np.concatenate([weight[:, first:], weight[:, :first]], axis=1)


def check_left(state: State, known: Sequence[str] = ()) -> None:
    """Raise CheckpointError where tensors are left that nobody understood."""
    left = [name for name in state.left() if name not in known]
    if left:
        raise CheckpointError(
            f"tensors {left[:4]!r} ({len(left)}) are of no BigGAN of a known kind: it was changed "
            "in its code; export it to ONNX or torch.export"
        )

"""A sample of rows, for preconditioning where features are too many for their second moment.

Rows are chosen by a hash of their content, so the sample does not depend on how rows are split
into blocks. Where all rows are few they are all taken, and the preconditioner is exact: the dual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from transforms.accumulate.blocks import TRANSFORMS, Arrays, statistic_kind
from transforms.svm.passes import CentredRequest

ALL_ROWS = 2048
SAMPLE_ROWS = 1024
SAMPLE_RANK = 256


@statistic_kind("RowSample")
@dataclass(frozen=True)
class RowSample:
    """Sampled rows (k, D), minus the centre, their labels (k, A) and weights (k,)."""

    rows: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    def merge(self, other: RowSample) -> RowSample:
        """Rows of both."""
        mine, others = self.to_arrays(), other.to_arrays()
        return self.from_arrays({k: np.concatenate([mine[k], others[k]]) for k in mine})

    def to_arrays(self) -> Arrays:
        """rows, labels, weights."""
        return {"rows": self.rows, "labels": self.labels, "weights": self.weights}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> RowSample:
        """Inverse of `to_arrays`."""
        return cls(arrays["rows"], arrays["labels"], arrays["weights"])


def hash_rows(x: np.ndarray) -> np.ndarray:
    """Hash of the bits of each row of x (m, D), uint32 (m,)."""
    words = np.ascontiguousarray(x).view(np.uint32)
    factors = np.random.default_rng(0).integers(2**32, size=words.shape[1], dtype=np.uint32) | 1
    hashed = words @ factors  # modulo 2^32
    hashed ^= hashed >> np.uint32(16)
    hashed *= np.uint32(0x85EBCA6B)
    hashed ^= hashed >> np.uint32(13)
    hashed *= np.uint32(0xC2B2AE35)
    return hashed ^ (hashed >> np.uint32(16))


@dataclass(frozen=True)
class SampleRequest(CentredRequest):
    """All rows, or about `SAMPLE_ROWS` of them where there are more than `ALL_ROWS`."""

    kind = f"{TRANSFORMS}.svm_sample.SampleRequest"

    n_rows: int

    def statistic(self, prepared: Arrays) -> RowSample:
        """`RowSample` of the block."""
        x, y = prepared["x"], prepared["y"].astype(np.int8)
        weight = prepared.get("weight", np.ones(len(x)))
        if self.n_rows <= ALL_ROWS:
            return RowSample(x, y, weight)
        taken = hash_rows(x) < 2.0**32 * SAMPLE_ROWS / self.n_rows
        return RowSample(x[taken], y[taken], weight[taken])


def principal_axes(
    sample: np.ndarray, n_rows: int, trace: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Low-rank model of the second moment of all rows: (values (r,), vectors (D, r), rest).

    From the Gram of the sampled rows (k, D). A sample tells the large axes only, so all others
    share what is left of the trace; with all rows in the sample nothing is left.
    """
    rows = sample.astype(np.float64)
    n_features = rows.shape[1]
    if not len(rows):
        return np.zeros(0), np.zeros((n_features, 0)), trace / n_features
    values, left = eigh(rows @ rows.T, check_finite=False)
    rank = len(rows) if len(rows) == n_rows else min(SAMPLE_RANK, len(rows) // 2)
    kept = np.arange(len(values))[::-1][:rank]
    kept = kept[values[kept] > 1e-12 * max(values[-1], np.finfo(float).tiny)]
    vectors = rows.T @ (left[:, kept] / np.sqrt(values[kept]))
    values = values[kept] * (n_rows / len(rows))
    rest = max(trace - float(values.sum()), 0.0) / max(n_features - len(kept), 1)
    return values, vectors, 0.0 if len(rows) == n_rows else rest

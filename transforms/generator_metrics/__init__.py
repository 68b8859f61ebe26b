"""Metrics of generators: how near what they draw is to pictures, and how straight their spaces are.

Everything here is of rows of features or codes, from statistics that are summed block by block.
"""

from typing import TYPE_CHECKING

from schemas.faces import face

if TYPE_CHECKING:
    from transforms.generator_metrics.frechet import frechet_distance as frechet_distance
    from transforms.generator_metrics.kernel import Subsets as Subsets
    from transforms.generator_metrics.kernel import kernel_distance as kernel_distance
    from transforms.generator_metrics.path_length import slerp as slerp
    from transforms.generator_metrics.path_length import trimmed_mean as trimmed_mean
    from transforms.generator_metrics.separability import separability as separability
    from transforms.generator_metrics.sets import compare_sets as compare_sets

__getattr__ = face(
    __name__,
    {
        "frechet": ["frechet_distance"],
        "kernel": ["Subsets", "kernel_distance"],
        "path_length": ["slerp", "trimmed_mean"],
        "separability": ["separability"],
        "sets": ["compare_sets"],
    },
)

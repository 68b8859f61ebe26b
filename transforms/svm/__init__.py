"""Hyperplanes of all attributes in one solve."""

from typing import TYPE_CHECKING

from schemas.faces import face

if TYPE_CHECKING:
    from transforms.svm.fit import HyperplaneOptions as HyperplaneOptions
    from transforms.svm.fit import HyperplaneSolver as HyperplaneSolver
    from transforms.svm.fit import fit_hyperplanes as fit_hyperplanes
    from transforms.svm.interfacegan import train_boundary as train_boundary
    from transforms.svm.model import Hyperplanes as Hyperplanes

__getattr__ = face(
    __name__,
    {
        "fit": ["HyperplaneOptions", "HyperplaneSolver", "fit_hyperplanes"],
        "model": ["Hyperplanes"],
        "interfacegan": ["train_boundary"],
    },
)

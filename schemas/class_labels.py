"""Class labels of rows: which class of a class-conditional generator each one belongs to.

The rule is one everywhere: a level of a factor means the class of that number (0, 1, ...), or the
class of that name where the model names its classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from schemas.index import DatasetIndex

NO_LABEL = -1


def class_number(level: str, n_classes: int, names: Sequence[str] = ()) -> int | None:
    """The class that a level means, None where there is none such."""
    if level in names:
        return names.index(level)
    number = int(level) if level.isascii() and level.isdigit() else n_classes
    return number if number < n_classes else None


def class_numbers(
    index: DatasetIndex, factor: str, n_classes: int, names: Sequence[str] = ()
) -> NDArray[np.int64]:
    """Class of every row of the index, int64 (n_rows,), `NO_LABEL` where the factor has no value.

    Raises DataError for a factor that is not there or continuous, and for levels that are no class.
    """
    codes, levels = index.categorical(factor)
    numbers = [class_number(level, n_classes, names) for level in levels]
    unknown = [level for level, number in zip(levels, numbers, strict=True) if number is None]
    if unknown:
        known = f"0 to {n_classes - 1}" + (f", {', '.join(names[:6])}, ..." if names else "")
        raise DataError(
            f"factor {factor!r} has the levels {unknown[:6]!r}, which are no classes of the "
            f"generator ({known}): correct the table, list them under 'dataset.missing', or name "
            "another factor under 'dataset.labels'"
        )
    of_code = np.array([*(n for n in numbers if n is not None), NO_LABEL], np.int64)
    found: NDArray[np.int64] = of_code[codes]
    return found

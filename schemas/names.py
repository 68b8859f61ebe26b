"""Names of stored things made from any text: factor levels, scores, keys and files of others."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable

from schemas.store.layout import NAME

MAX_NAME = 160
"""Characters of a name: with what a prefix and a file's ending add, a file system takes it."""


def safe_name(text: str, taken: Collection[str] = ()) -> str:
    """A name that `schemas.store.layout.check_name` allows, and that is not among ``taken``.

    A text that is such a name stays as it is. In any other, accents are dropped and what is not
    allowed becomes "_"; where letters of other scripts are lost, where it is too long, or where the
    name is taken, a part of the text's sha256 is added. The same arguments give the same name.

    Give the whole name with its prefix ("mean.light brown"), and keep the text beside it.
    """
    if NAME.fullmatch(text) and len(text) <= MAX_NAME and text not in taken:
        return text
    letters = unicodedata.normalize("NFKD", text)
    letters = "".join(c for c in letters if not unicodedata.combining(c))
    base = re.sub(r"[^A-Za-z0-9_.-]+", "_", letters).strip("._-")
    if base and len(base) <= MAX_NAME and letters.isascii() and base not in taken:
        return base
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    for length in range(8, len(digest) + 1):
        name = f"{base[: MAX_NAME - 1 - length] or 'name'}-{digest[:length]}"
        if name not in taken:
            return name
    return safe_name(f"{text} {len(taken)}", taken)


def safe_names(texts: Iterable[str], taken: Collection[str] = ()) -> list[str]:
    """`safe_name` of each text in order, all different. Texts that are names already come first,
    so that no other takes theirs."""
    texts, found = list(texts), dict[int, str]()
    used = set(taken)
    for position in sorted(range(len(texts)), key=lambda i: NAME.fullmatch(texts[i]) is None):
        found[position] = safe_name(texts[position], used)
        used.add(found[position])
    return [found[position] for position in range(len(texts))]

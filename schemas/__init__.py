"""What a row, block, store, direction set, specification and error is."""

from schemas.faces import find_old_names

find_old_names()

"""What is computed: numerics, and the Beam transforms around them."""

from schemas.faces import find_old_names

find_old_names()

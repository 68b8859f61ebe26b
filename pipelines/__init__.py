"""What runs: stages, analyses, evaluation, report and the command line."""

from schemas.faces import find_old_names

find_old_names()

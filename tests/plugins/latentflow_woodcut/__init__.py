"""Woodcuts: a small family of generators with all that goes with it, as one package of plug-ins."""

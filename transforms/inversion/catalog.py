"""The inversion methods, and how one of them is used."""

from __future__ import annotations

from generators.protocols import Code
from schemas.catalog import Catalog
from schemas.errors import PluginError, UsageError
from schemas.sections.invert import GROUP
from transforms.inversion.method import Images, InversionMethod, Inverted, companion_shapes

METHODS: Catalog[InversionMethod] = Catalog(
    "inversion method",
    "transforms.inversion.methods",
    GROUP,
    base=InversionMethod,
)


def method_named(name: str) -> InversionMethod:
    """The method of a name.

    Raises UsageError for a name that none has, PluginError for one that cannot be used.
    """
    return METHODS.load(name)


def invert_batch(images: Images) -> Inverted:
    """Codes of a batch by the method that its settings name.

    Raises UsageError when the encoder or the random numbers that it needs are missing, PluginError
    for a result of another form than the method said.
    """
    settings, method = images.settings, method_named(images.settings.method)
    needs, n = settings.needs, len(images)
    if needs.encoder and images.encoder is None:
        raise UsageError(
            f"inversion method {settings.method!r} needs an encoder: name one under 'encoder'"
        )
    if needs.random and len(images.rngs) != n:
        raise UsageError(
            f"'rngs' has {len(images.rngs)!r} entries for {n!r} images: give one generator of "
            "random numbers for each row"
        )
    with METHODS.blamed(settings.method, "invert"):
        found = method.invert(images)
    if not isinstance(found, Inverted) or not isinstance(found.code, Code):
        raise PluginError(
            f"inversion method {settings.method!r} gave {type(found).__name__!r} of "
            f"{type(getattr(found, 'code', None)).__name__!r}, expected 'Inverted' of a 'Code': "
            "repair the method"
        )
    if settings.compared_by is not None and images.perceptual is None:
        raise UsageError(
            f"settings of inversion method {settings.method!r} name a perceptual distance: give "
            "'perceptual', see 'generators.perceptual.load_perceptual'"
        )
    facts = images.generator.facts
    space = facts.space(settings.space)
    wanted = {space.name: (n, *space.shape)}
    for name, shape in companion_shapes(method, settings, facts).items():
        wanted[name] = (n, *shape)
    wanted |= {f"quality {name}": (n,) for name in method.qualities(settings)}
    given = {found.code.space: found.code.main, **found.code.companions}
    given |= {f"quality {name}": values for name, values in found.qualities.items()}
    shapes = {name: tuple(values.shape) for name, values in given.items()}
    if shapes != wanted:
        raise PluginError(
            f"inversion method {settings.method!r} gave arrays of shapes {shapes!r}, but said "
            f"{wanted!r}: repair the method"
        )
    return found

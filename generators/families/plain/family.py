"""Networks of other makers as a family of generators: one code in, one picture out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from generators.families.base import Checkpoint, Declared
from generators.families.plain.architectures.catalog import ARCHITECTURES
from generators.families.plain.declaration import Declaration
from generators.families.plain.reader import FAMILY, check_state, from_program, from_state
from generators.families.plain.settings import PlainSettings
from generators.programs import ONNX, TORCHSCRIPT, Program
from generators.protocols import GRADIENTS, Companion, ModelFacts, Prior, Space
from generators.tuned import tunable
from schemas.errors import CheckpointError, UntrustedError

if TYPE_CHECKING:
    from generators.families.plain.adapter import PlainGenerator

SPACE = "z"
LOG_VARIANCE = "log_variance"


class PlainFamily:
    """See `generators.families.base.GeneratorFamily`."""

    name = FAMILY
    settings = PlainSettings
    bundled: Mapping[str, Path] = MappingProxyType({})

    def recognise(self, contents: Any) -> Checkpoint | None:
        """State dicts of a known architecture; whatever a declaration beside it describes."""
        said = None
        if isinstance(contents, Declared):
            said, contents = Declaration.read(contents.description), contents.contents
        if isinstance(contents, Program):
            return from_program(contents, said)
        return from_state(contents, said)

    def checked(self, checkpoint: Checkpoint) -> Checkpoint:
        """Every tensor of the architecture, and no other; a program is tried when it is built."""
        if "architecture" in checkpoint.architecture:
            check_state(checkpoint)
        try:
            self.facts(checkpoint)
        except (KeyError, TypeError, ValueError) as e:
            raise CheckpointError(f"'architecture' is not that of a plain network: {e!r}") from e
        return checkpoint

    def facts(self, checkpoint: Checkpoint) -> ModelFacts:
        """One space, z, of any shape."""
        described = checkpoint.architecture
        labels = described.get("labels")
        shape = tuple(int(n) for n in described["shape"])
        height, width = described["size"]
        beside = {LOG_VARIANCE: Companion(shape)} if described["log_variance"] else {}
        prior = cast(Prior, described["prior"])
        z = Space(SPACE, shape, prior, conditional=labels is not None, companions=beside)
        drawn_by_onnx = described.get("program") == ONNX
        facts = ModelFacts(
            family=self.name,
            network_fp=checkpoint.fingerprint,
            size=(int(height), int(width)),
            channels=int(described["channels"]),
            classes=0 if labels is None else int(labels["classes"]),
            spaces={SPACE: z},
            default_space=SPACE,
            capabilities=frozenset() if drawn_by_onnx else frozenset({GRADIENTS}),
            assumed={
                name: f"{value!r} is assumed, no file states it: set 'generator.{name}'"
                for name, value in checkpoint.assumed.items()
            },
        )
        return tunable(facts, _weights(checkpoint))

    def build(self, checkpoint: Checkpoint) -> PlainGenerator:
        """The generator; a program is tried. Raises UntrustedError for TorchScript that is not
        trusted, CheckpointError for what cannot be drawn with."""
        if checkpoint.architecture.get("program") == TORCHSCRIPT and not checkpoint.trusted:
            raise UntrustedError(
                "is TorchScript, which can run any code when it is loaded: give --trust "
                "on the command line if you trust its source, or export it to ONNX"
            )
        from generators.families.plain.adapter import PlainGenerator

        return PlainGenerator(self.facts(checkpoint), checkpoint)


def _weights(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shapes of what a row may have changes of its own to: weights and biases of a named
    architecture."""
    name = str(checkpoint.architecture.get("architecture"))
    shapes = {n: tuple(v.shape) for n, v in checkpoint.tensors.items()}
    found = ARCHITECTURES[name].find(shapes) if name in ARCHITECTURES else None
    used = () if found is None else found.names.values()
    return {n: shapes[n] for n in used if n.rpartition(".")[2] in ("weight", "bias")}


PLUGIN = PlainFamily()

"""What every generator keeps, and the family that builds it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from generators.families.base import Checkpoint, GeneratorFamily
from generators.families.catalog import FAMILIES
from generators.model_file import read_checkpoint, write_checkpoint
from generators.protocols import GRADIENTS, Code, Edit, Generator, Space, labels_in_turn
from generators.tuned import FEATURES, WEIGHTS, is_own, length, packed, unpacked
from schemas.directions.direction import unit_direction
from schemas.errors import DirectionMismatchError, UsageError

SEEDS = (3, 4, 5, 6)


class GeneratorSuite:
    """Subclass with a name that begins with ``Test``, set ``family`` and give a ``checkpoint``.

    family : the plug-in
    tolerance : largest difference, relative to the numbers' size, of what should be equal but for
        the order of its sums
    """

    family: ClassVar[GeneratorFamily]
    tolerance: ClassVar[float] = 1e-4

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        """A small model with weights of which none is 0."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def read(cls) -> Checkpoint:
        return cls.checkpoint()

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, read: Checkpoint) -> Generator:
        return cls.family.build(read)

    # ---- helpers

    def close(self, found: torch.Tensor, expected: torch.Tensor) -> None:
        size = float(expected.double().abs().mean()) or 1.0
        worst = float((found.double() - expected.double()).abs().max())
        assert worst <= self.tolerance * max(size, 1e-3), (worst, size)

    def labels(self, model: Generator, seeds: Any = SEEDS) -> list[int] | None:
        return labels_in_turn(model.facts.classes, seeds)

    def drawable(self, model: Generator) -> list[Space]:
        """Spaces that can be sampled."""
        return [s for s in model.facts.spaces.values() if s.prior != "none"]

    def sampled(self, model: Generator, space: Space, seeds: Any = SEEDS) -> Code:
        """Codes of the prior with every companion, which differ between rows, but without parts of
        the network of their own."""
        code = model.sample(space.name, list(seeds))
        made = dict(code.companions)
        for name, companion in space.companions.items():
            if is_own(name):
                continue
            rows = [np.random.RandomState(s).standard_normal(companion.shape) for s in seeds]
            made.setdefault(name, torch.from_numpy(np.stack(rows).astype(np.float32)))
        return Code(code.space, code.main, made)

    def draw(self, model: Generator, code: Code, seeds: Any = SEEDS, **options: Any) -> Any:
        own = self.labels(model, seeds) if model.facts.space(code.space).conditional else None
        with torch.no_grad():
            return model.draw(code, labels=own, **options)

    # ---- facts

    def test_facts_without_a_model_equal_those_of_the_model(self, read, model) -> None:
        told, facts = self.family.facts(read), model.facts
        assert told == facts
        assert facts.family == self.family.name == read.family
        assert isinstance(model, Generator)

    def test_facts_name_spaces_that_there_are(self, model) -> None:
        facts = model.facts
        assert facts.default_space in [space.name for space in self.drawable(model)]
        for name, space in facts.spaces.items():
            assert name == space.name and all(n > 0 for n in space.shape)
            for other in (space.derived_from, space.injected_into):
                assert other is None or other in facts.spaces
            if space.prior == "derived":
                assert space.derived_from is not None
            assert not space.axes or space.shape == (len(set(space.axes)),)
            assert len(space.units) in (0, len(space.axes))

    def test_the_fingerprint_survives_files(self, read, model, tmp_path: Path) -> None:
        fingerprint = model.facts.network_fp
        assert len(fingerprint) == 64 and fingerprint == read.fingerprint
        again = self.family.checked(copy.deepcopy(read))
        assert self.family.build(again).facts.network_fp == fingerprint
        if self.family.name in FAMILIES:
            write_checkpoint(read, tmp_path / "g.safetensors")
            assert read_checkpoint(tmp_path / "g.safetensors").fingerprint == fingerprint
        name = next(iter(read.tensors))
        other = {**read.tensors, name: read.tensors[name] + 1}
        assert Checkpoint(read.architecture, other).fingerprint != fingerprint

    # ---- codes

    def test_a_sample_depends_on_its_seed_alone(self, model) -> None:
        for space in self.drawable(model):
            whole = model.sample(space.name, list(SEEDS)).main
            assert tuple(whole.shape) == (len(SEEDS), *space.shape)
            alone = torch.cat([model.sample(space.name, [seed]).main for seed in SEEDS])
            self.close(alone, whole)
            assert float((whole[0] - whole[1]).abs().max()) > 0
            again = model.sample(space.name, list(SEEDS), labels=self.labels(model)).main
            self.close(again, whole)

    def test_conversions_compose_and_draw_the_same(self, model) -> None:
        ways = [(a, b) for a in self.drawable(model) for b in model.facts.spaces.values()]
        for first, second in ways:
            code, labels = self.sampled(model, first), self.labels(model)
            try:
                there = model.convert(code, second.name, labels=labels)
            except UsageError:
                continue
            assert tuple(there.main.shape) == (len(SEEDS), *second.shape)
            if second.injected_into:
                continue
            self.close(self.draw(model, there), self.draw(model, code))
            for third in model.facts.spaces:
                with contextlib.suppress(UsageError):
                    onward = model.convert(there, third, labels=labels)
                    straight = model.convert(code, third, labels=labels)
                    self.close(onward.main, straight.main)

    def test_full_truncation_is_the_centre(self, model) -> None:
        for space in self.drawable(model):
            centre = model.centre(space.name)
            assert tuple(centre.shape) == space.shape
            try:
                drawn = model.sample(space.name, list(SEEDS), truncation=0.0).main
            except UsageError:
                continue
            middle = model.centre(space.name, labels=self.labels(model))
            self.close(drawn, middle.expand(len(SEEDS), *space.shape))

    # ---- drawing

    def test_images_have_the_size_that_the_facts_say(self, model) -> None:
        for space in self.drawable(model):
            images = self.draw(model, self.sampled(model, space))
            assert tuple(images.shape) == (len(SEEDS), 3, *model.facts.size)
            assert images.dtype == torch.float32 and bool(torch.isfinite(images).all())

    def test_no_codes_are_no_images(self, model) -> None:
        for space in self.drawable(model):
            images = self.draw(model, self.sampled(model, space)[:0], [])
            assert tuple(images.shape) == (0, 3, *model.facts.size)

    def test_a_row_does_not_depend_on_its_neighbours(self, model) -> None:
        for space in self.drawable(model):
            code = self.sampled(model, space)
            whole = self.draw(model, code)
            for i, seed in enumerate(SEEDS):
                self.close(self.draw(model, code[i : i + 1], [seed]), whole[i : i + 1])

    def test_double_precision_is_near(self, read) -> None:
        model = self.family.build(read)
        space = model.facts.space(model.facts.default_space)
        code = self.sampled(model, space)
        single = self.draw(model, code)
        double = self.draw(model.to(torch.float64), code.changed(lambda tensor: tensor.double()))
        assert double.dtype == torch.float64
        self.close(single, double)

    def test_gradients_agree_with_finite_differences(self, read) -> None:
        model = self.family.build(read).to(torch.float64)
        if GRADIENTS not in model.facts.capabilities:
            pytest.skip("the model's drawings are not differentiated")
        random = np.random.default_rng(0)
        for space in self.drawable(model):
            code = self.sampled(model, space, SEEDS[:1]).changed(lambda tensor: tensor.double())
            own = self.labels(model, SEEDS[:1]) if space.conditional else None
            weights = torch.from_numpy(random.normal(size=(1, 3, *model.facts.size)))
            way = torch.from_numpy(random.normal(size=tuple(code.main.shape)))

            def value(main: torch.Tensor, code=code, own=own, weights=weights) -> torch.Tensor:
                return (model.draw(code.moved(main), labels=own) * weights).sum()

            main = code.main.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(value(main), main)
            slope = float((gradient * way).sum())
            with torch.no_grad():
                step = 1e-6
                ends = [float(value(code.main + sign * step * way)) for sign in (1, -1)]
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-3, abs=1e-4)

    # ---- companions

    def with_companions(self, model: Generator) -> Iterator[tuple[Space, Code]]:
        for space in self.drawable(model):
            if any(not is_own(name) for name in space.companions):
                yield space, self.sampled(model, space)

    def test_rows_with_and_without_companions_mix(self, model) -> None:
        for space, code in self.with_companions(model):
            optional = [n for n, c in space.companions.items() if not c.required and not is_own(n)]
            mixed, bare = dict(code.companions), dict(code.companions)
            for name in optional:
                mixed[name] = code.companions[name].clone()
                mixed[name][::2] = torch.nan
                del bare[name]
            whole = self.draw(model, code)
            without = self.draw(model, Code(code.space, code.main, bare))
            both = self.draw(model, Code(code.space, code.main, mixed))
            self.close(both[1::2], whole[1::2])
            self.close(both[::2], without[::2])

    def test_a_missing_required_companion_is_refused(self, model) -> None:
        for space, code in self.with_companions(model):
            for name, companion in space.companions.items():
                if companion.required:
                    rest = {n: v for n, v in code.companions.items() if n != name}
                    lost = {**code.companions, name: code.companions[name].clone()}
                    lost[name][0] = torch.nan
                    for given in (rest, lost):
                        with pytest.raises(UsageError, match=name):
                            self.draw(model, Code(code.space, code.main, given))

    # ---- parts of the network of a row's own

    def with_weights(self, model: Generator) -> Iterator[tuple[Space, Code, torch.Tensor]]:
        """Spaces that take a row's own weights, codes, and small weights of which the second row
        has none."""
        for space in self.drawable(model):
            if WEIGHTS in space.companions:
                code = self.sampled(model, space)
                size = length(space.companions[WEIGHTS].tensors)
                rows = [np.random.RandomState(s).standard_normal(size) for s in SEEDS]
                weights = torch.from_numpy(np.stack(rows).astype(np.float32)) * 0.02
                weights[1] = torch.nan
                yield space, code, weights

    def tuned(self, read: Checkpoint, model: Generator, space: Space, weights: Any) -> Generator:
        """A generator with a row's weights built in."""
        tensors = dict(read.tensors)
        for name, delta in unpacked(space.companions[WEIGHTS].tensors, weights).items():
            tensors[name] = np.asarray(tensors[name] + delta.numpy(), np.float32)
        return self.family.build(replace(read, tensors=tensors))

    def test_a_row_is_drawn_with_weights_of_its_own(self, read, model) -> None:
        for space, code, weights in self.with_weights(model):
            own = Code(code.space, code.main, {**code.companions, WEIGHTS: weights})
            plain, drawn = self.draw(model, code), self.draw(model, own)
            direction = self.direction(model, space)
            edits = [Edit(direction, np.array([0.0, 1.0, -1.0, 2.0]))]
            edited = self.draw(model, own, edits=edits)
            self.close(drawn[1], plain[1])
            assert torch.equal(self.draw(model, code), plain), "what was swapped is put back"
            for row in (0, 2):
                at, seeds = slice(row, row + 1), SEEDS[row : row + 1]
                other = self.tuned(read, model, space, weights[row])
                assert float((drawn[at] - plain[at]).abs().max()) > 1e-4
                self.close(drawn[at], self.draw(other, code[at], seeds))
                its = replace(direction, provenance={"generator_fp": other.facts.fingerprint})
                step = [Edit(its, float(edits[0].strength[row]))]  # type: ignore[index]
                self.close(edited[at], self.draw(other, code[at], seeds, edits=step))

    def test_what_a_row_is_converted_to_is_of_its_own_weights(self, read, model) -> None:
        for space, code, weights in self.with_weights(model):
            own = Code(code.space, code.main, {**code.companions, WEIGHTS: weights})
            other = self.tuned(read, model, space, weights[2])
            for target in model.facts.spaces.values():
                labels = self.labels(model)
                try:
                    there = model.convert(own, target.name, labels=labels)
                except UsageError:
                    continue
                last = None if labels is None else labels[2:3]
                self.close(there.main[2:3], other.convert(code[2:3], target.name, labels=last).main)
                if WEIGHTS in target.companions:
                    kept = there.companions[WEIGHTS]
                    assert torch.equal(kept.isnan(), weights.isnan())
                    self.close(self.draw(model, there), self.draw(model, own))

    def test_weights_of_low_rank_are_those_of_their_product(self, model) -> None:
        for space, code, _ in self.with_weights(model):
            companion = space.companions[WEIGHTS]
            size = length(companion.tensors, 2)
            rows = [np.random.RandomState(s).standard_normal(size) * 0.05 for s in SEEDS]
            factors = torch.from_numpy(np.stack(rows).astype(np.float32))
            each = [unpacked(companion.tensors, row) for row in factors]
            full = packed(companion, {n: torch.stack([d[n] for d in each]) for n in each[0]})
            both = [
                self.draw(model, Code(code.space, code.main, {**code.companions, WEIGHTS: own}))
                for own in (factors, full)
            ]
            self.close(*both)
            wrong = Code(code.space, code.main, {**code.companions, WEIGHTS: full[:, 1:]})
            with pytest.raises(UsageError, match="'weights' of a code has"):
                self.draw(model, wrong)

    def test_weights_are_differentiated(self, model) -> None:
        for space, code, weights in self.with_weights(model):
            if GRADIENTS not in model.facts.capabilities:
                continue
            given = weights.nan_to_num(0.0).requires_grad_()
            own = Code(code.space, code.main, {**code.companions, WEIGHTS: given})
            labels = self.labels(model) if space.conditional else None
            model.draw(own, labels=labels)[2].square().sum().backward()
            assert given.grad is not None
            assert not given.grad[[0, 1, 3]].any() and bool(given.grad[2].abs().max() > 0)

    def test_a_feature_map_stands_in_for_what_its_layer_puts_out(self, model) -> None:
        for space in self.drawable(model):
            names = [name for name in space.companions if name.startswith(FEATURES)]
            if not names:
                continue
            code, name = self.sampled(model, space), names[len(names) // 2]
            layer = "features." + name.removeprefix(FEATURES)
            labels = self.labels(model)
            there = model.convert(code, layer, labels=labels).main
            random = np.random.RandomState(5).standard_normal(tuple(there.shape))
            other = there + torch.from_numpy(random.astype(np.float32)) * there.std()
            other[1] = torch.nan
            own = Code(code.space, code.main, {**code.companions, name: other})
            plain, drawn = self.draw(model, code), self.draw(model, own)
            self.close(drawn[1], plain[1])
            assert float((drawn[[0, 2, 3]] - plain[[0, 2, 3]]).flatten(1).abs().amax(1).min()) > 0
            same = Code(code.space, code.main, {**code.companions, name: there})
            self.close(self.draw(model, same), plain)
            self.close(model.convert(own, layer, labels=labels).main[[0, 2, 3]], other[[0, 2, 3]])
            # what an edit of the code changes of the map is added to the row's own
            edits = [Edit(self.direction(model, space), 1.0)]
            moved = self.draw(model, same, edits=edits)
            self.close(moved, self.draw(model, code, edits=edits))

    # ---- edits

    def direction(self, model: Generator, space: Space, fingerprint: str | None = None) -> Any:
        vector = np.random.default_rng(1).normal(size=space.shape)
        made_for = {"generator_fp": fingerprint or model.facts.fingerprint}
        return unit_direction("d", space.name, vector, method="planted", sd=0.5,
                              provenance=made_for)  # fmt: skip

    def test_edits_add_to_the_code_or_while_drawing(self, model) -> None:
        strengths = np.array([0.0, 1.0, -1.0, 2.0])
        for space in model.facts.spaces.values():
            base = model.facts.space(space.injected_into or space.name)
            if base.prior == "none":
                continue
            code, direction = self.sampled(model, base), self.direction(model, space)
            plain = self.draw(model, code)
            moved = self.draw(model, code, edits=[Edit(direction, strengths)])
            self.close(moved[:1], plain[:1])
            assert float((moved[1:] - plain[1:]).abs().max()) > 0
            alone = self.draw(model, code[1:2], SEEDS[1:2], edits=[Edit(direction, 1.0)])
            self.close(alone, moved[1:2])
            if space is base:
                step = torch.from_numpy(0.5 * direction.vector)
                along = torch.from_numpy(strengths).reshape(-1, *[1] * len(space.shape)) * step
                by_hand = code.moved((code.main.double() + along).float())
                self.close(moved, self.draw(model, by_hand))

    def test_directions_of_another_model_are_refused(self, model) -> None:
        for space in model.facts.spaces.values():
            base = model.facts.space(space.injected_into or space.name)
            if base.prior == "none":
                continue
            direction = self.direction(model, space, "ab" * 32)
            with pytest.raises(DirectionMismatchError, match="was made for generator"):
                self.draw(model, self.sampled(model, base), edits=[Edit(direction, 1.0)])

    # ---- what is refused

    def test_wrong_codes_and_labels_are_refused(self, model) -> None:
        default = model.facts.default_space
        code = self.sampled(model, model.facts.space(default))
        with pytest.raises(UsageError, match="is not one of this"):
            model.convert(code, "no-such-space")
        wrong = Code(default, torch.zeros(2, *model.facts.space(default).shape, 2))
        with pytest.raises(UsageError, match="expects"):
            model.draw(wrong)
        if model.facts.classes:
            for labels in ([model.facts.classes], [-1], [0, 0]):
                with pytest.raises(UsageError, match="class"):
                    model.sample(default, [0], labels=labels)
        for space in self.drawable(model):
            if space.conditional:
                with pytest.raises(UsageError, match="labels"):
                    model.draw(self.sampled(model, space))

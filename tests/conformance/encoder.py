"""What every encoder must do."""

from __future__ import annotations

import pytest
import torch

from generators.protocols import Encoder


class EncoderSuite:
    """Of one encoder."""

    @pytest.fixture
    def encoder(self) -> Encoder:
        """The encoder, as it is loaded."""
        raise NotImplementedError

    @pytest.fixture
    def again(self) -> Encoder:
        """The same encoder, loaded again."""
        raise NotImplementedError

    @pytest.fixture
    def images(self) -> torch.Tensor:
        """Images that it takes, float32 (n, 3, h, w) in [-1, 1], at least four."""
        raise NotImplementedError

    def test_codes_are_float32_rows_that_need_no_gradient(self, encoder, images):
        codes = encoder.encode(images)
        assert len(codes) == len(images) and codes.dtype == torch.float32
        assert bool(torch.isfinite(codes).all()) and not codes.requires_grad

    def test_batches_do_not_matter(self, encoder, images):
        whole = encoder.encode(images)
        for rows in ([0], [3, 1], [2, 2]):
            torch.testing.assert_close(
                encoder.encode(images[rows]), whole[rows], rtol=1e-4, atol=1e-5
            )

    def test_the_fingerprint_is_the_model_s(self, encoder, again, images):
        assert encoder.fingerprint == again.fingerprint and len(encoder.fingerprint) == 64
        assert encoder.space == again.space
        torch.testing.assert_close(again.encode(images), encoder.encode(images), rtol=0, atol=0)

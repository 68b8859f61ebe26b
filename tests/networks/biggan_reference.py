"""Images of the small models of `tests.networks.biggan` by the code that they are written for.

Run once, outside the suite, with the packages (or their source text) on the path:

    pip install --no-deps --target PACKAGES pytorch-pretrained-biggan==0.1.1
    git clone https://github.com/ajbrock/BigGAN-PyTorch BROCK
    PYTHONPATH=.:PACKAGES:BROCK python -m tests.networks.biggan_reference

writes ``tests/networks/biggan_reference.npz``.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.networks.biggan import BROCK, CLASSES, HF_CONFIG, brock_state, hf_state

FILE = Path(__file__).with_suffix(".npz")
#: Truncations of the statistics: sets of their own, and what lies between two of them.
TRUNCATIONS = (0.02, 0.4, 0.413, 0.58, 1.0)


def latents(width: int, n: int = 2) -> np.ndarray:
    """Codes (n, width)."""
    return np.random.RandomState(5).standard_normal((n, width)).astype(np.float32)


def loaded(model: torch.nn.Module, state: dict[str, np.ndarray]) -> torch.nn.Module:
    """A model in evaluation mode with the tensors, of which none is missing or left over."""
    model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    return model.eval()


def main() -> None:
    for name in ("boto3", "botocore", "botocore.exceptions", "requests"):  # for downloads alone
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["botocore.exceptions"].ClientError = Exception  # type: ignore[attr-defined]
    import BigGAN
    import BigGANdeep
    from pytorch_pretrained_biggan import BigGAN as HuggingFace
    from pytorch_pretrained_biggan import BigGANConfig

    found: dict[str, Any] = {}
    model = loaded(HuggingFace(BigGANConfig.from_dict(HF_CONFIG)), hf_state())
    z, weights = latents(HF_CONFIG["z_dim"]), np.eye(HF_CONFIG["num_classes"], dtype="f4")[[1, 3]]
    weights[1] = [0.1, 0.2, 0.3, 0.4, 0.0]
    with torch.no_grad():
        for truncation in TRUNCATIONS:
            images = model(torch.from_numpy(z), torch.from_numpy(weights), truncation)
            found[f"hf/{truncation}"] = images.numpy()
        for kind, about in BROCK.items():
            module = BigGANdeep if about["deep"] else BigGAN
            model = module.Generator(
                G_ch=4, resolution=32, dim_z=about["z"], n_classes=CLASSES, hier=about["hier"],
                G_shared=about["shared"] > 0, shared_dim=about["shared"],
                G_attn="_".join(str(8 << stage) for stage in about["attention"]) or "0",
                **({"G_depth": 2} if about["deep"] else {}), no_optim=True,
            )  # fmt: skip
            loaded(model, brock_state(kind))
            classes = torch.tensor([0, 2])
            y = model.shared(classes) if about["shared"] else classes
            images = model(torch.from_numpy(latents(about["z"])), y)
            found[f"brock/{kind}"] = images[:, :, ::2, ::2].numpy()
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()

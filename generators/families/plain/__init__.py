"""Any network from a latent code to an image: state dicts, ONNX, torch.export, TorchScript."""

from generators.families.plain.family import PLUGIN

__all__ = ["PLUGIN"]

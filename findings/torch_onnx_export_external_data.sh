#!/usr/bin/env bash
# torch 2.13.0 with onnxscript 0.7.2: `torch.onnx.export` writes weights of 1 KB and more into a second
# file, NAME.onnx.data, even for a model of 16 KB. After such weights have been trained further, the
# .onnx file of the new export has the same bytes: a hash of it does not tell the two models apart,
# and copying it alone loses the weights. Seen:
#   same .onnx: True, same .onnx.data: False, outputs differ by 64
# Exit 0: seen again. Exit 1: the behaviour has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
env/bin/python - <<'PYTHON'
import logging
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
net = torch.nn.Linear(64, 64).eval()
outputs = []
for folder in map(Path, ("before", "after")):
    folder.mkdir()
    file = folder / "net.onnx"
    torch.onnx.export(net, (torch.ones(1, 64),), str(file), input_names=["x"], verbose=False)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    outputs.append(session.run(None, {"x": np.ones((1, 64), np.float32)})[0])
    with torch.no_grad():
        net.weight += 1


def same(name):
    return Path("before", name).read_bytes() == Path("after", name).read_bytes()


difference = float(np.abs(outputs[0] - outputs[1]).max())
found = same("net.onnx"), same("net.onnx.data"), round(difference)
print(f"same .onnx: {found[0]}, same .onnx.data: {found[1]}, outputs differ by {found[2]}")
raise SystemExit(found != (True, False, 64))
PYTHON

#!/usr/bin/env bash
# skl2onnx 1.20.0 (scikit-learn 1.9.1, onnxruntime 1.31.1): the second output of an exported
# LogisticRegression is a sequence of maps, no tensor (unless `zipmap` is switched off). That of a
# LinearSVC is called "probabilities" and holds the decision value, (n, 1), negative numbers among
# them. A program that takes an output by its name takes signed distances for probabilities. Seen:
#   LogisticRegression: output_probability seq(map(int64,tensor(float)))
#   LinearSVC: probabilities tensor(float) [None, 1], equal to decision_function
# Exit 0: seen again. Exit 1: the behaviour has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check skl2onnx==1.20.0 onnx==1.23.2 onnxruntime==1.31.1 scikit-learn==1.9.1 numpy==2.4.6
env/bin/python - <<'PYTHON'
import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
y = (x[:, 0] > 0).astype(int)


def second_output(model):
    file = to_onnx(model.fit(x, y), x[:1]).SerializeToString()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    output = session.get_outputs()[1]
    print(f"{type(model).__name__}: {output.name} {output.type} {output.shape}")
    return output, session.run([output.name], {session.get_inputs()[0].name: x})[0]


maps, _ = second_output(LogisticRegression())
svc = LinearSVC()
named, values = second_output(svc)
decision = svc.decision_function(x)
same = named.name == "probabilities" and np.allclose(values[:, 0], decision, atol=1e-4)
print("least 'probability':", values.min())
raise SystemExit(not (same and values.min() < 0 and maps.type.startswith("seq(map(")))
PYTHON

#!/usr/bin/env bash
# pytorch-pretrained-biggan 0.1.1 (torch 2.13.0): batch normalisation has 51 sets of statistics, of
# truncations 0, 0.02, ..., 1. Between two of them they are mixed with each other's weights: 0.025,
# a quarter of the way from the second set to the third, takes a quarter of the second and three
# quarters of the third. Where truncation / 0.02 is rounded to just beside a whole number, the set on
# that side is taken: that of 0.58 for 0.56, that of 0.56 for 0.58. Of means that grow by 1 from set
# to set, expected 1.25, 28 and 29, seen:
#   truncation 0.025: mean 1.7500, truncation 0.56: mean 29.0000, truncation 0.58: mean 28.0000
# Exit 0: seen again. Exit 1: the behaviour has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check pytorch-pretrained-biggan==0.1.1 torch==2.13.0 numpy==2.4.6 scipy boto3 requests tqdm
env/bin/python - <<'PYTHON'
import torch
from pytorch_pretrained_biggan.model import BigGANBatchNorm

norm = BigGANBatchNorm(1, conditional=False, eps=0.0)
norm.weight.data, norm.bias.data = torch.ones(1), torch.zeros(1)
norm.running_means = torch.arange(51.0)[:, None]
seen = {}
for truncation in (0.02, 0.025, 0.03, 0.56, 0.58, 0.6):
    seen[truncation] = -norm(torch.zeros(1, 1, 1, 1), truncation).item()
    print(f"truncation {truncation}: mean {seen[truncation]:.4f}, expected {truncation * 50:.4f}")
raise SystemExit(not (abs(seen[0.025] - 1.75) < 1e-4 and abs(seen[0.56] - 29) < 1e-4
                    and abs(seen[0.58] - 28) < 1e-4))
PYTHON

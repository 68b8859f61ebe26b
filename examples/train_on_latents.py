"""Train a small torch model on a run's codes: python examples/train_on_latents.py SPEC SCORE

The model learns an annotator's score from the code alone. Batches come in shuffled blocks: the
store is read in order on disk, and may be larger than memory.
"""

import sys

import torch
from torch.utils.data import DataLoader

from pipelines.downstream.finished_run import FinishedRun
from pipelines.downstream.latent_batches import LatentBatches
from schemas.spec import load_spec

CODES, SCORES = "latents/w_plus", "annotations/attributes@render"
EPOCHS, WORKERS = 5, 2

spec, score = sys.argv[1:]
run = FinishedRun.of(load_spec(spec))
column = run.store.array(SCORES).attrs["names"].index(score)

batches = LatentBatches(run.blocks([CODES, SCORES]), batch_size=32, seed=0)
loader = DataLoader(batches, batch_size=None, num_workers=WORKERS, persistent_workers=True)

torch.manual_seed(0)
model = torch.nn.Linear(run.store.array(CODES)[0].size, 1)
optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
losses = []
for epoch in range(EPOCHS):
    batches.set_epoch(epoch)
    total, n = 0.0, 0
    for batch in loader:
        wanted = batch[SCORES][:, column]
        loss = torch.nn.functional.mse_loss(model(batch[CODES].flatten(1))[:, 0], wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total, n = total + loss.item() * len(wanted), n + len(wanted)
    losses.append(total / n)
    sys.stdout.write(f"epoch {epoch}: {n} rows, mean squared error {losses[-1]:.4f}\n")

"""The ablation and what is made of it; run through experiments/dvc.yaml, not part of plain `dvc repro`."""

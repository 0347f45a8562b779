"""Runs of recipes, and the tables made of them: the ablation, the retrieval study, the comparison of systems."""

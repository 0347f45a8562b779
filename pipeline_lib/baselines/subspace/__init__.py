"""Cross-modal subspace learning: two linear projections, one per domain, into a space that both share.

The family that Xu et al. (Cross-modal subspace learning for fine-grained sketch-based image retrieval, Neurocomputing
2018) compare. One file per kind of equation: correlation of pairs (`correlation`), one generalised eigenproblem
(`generalised`), and regression to class labels with row-sparse projections (`regression`).
"""

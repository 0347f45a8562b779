"""Sketch-based image retrieval learned by cross-domain context prediction: the library under the stages."""

"""Vectors of whole images: export, layers, alignment of the two domains."""

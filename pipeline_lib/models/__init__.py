"""Encoders that end in fc6, the late-fusion context network, and the weights to start from."""

"""Searching by drawing: the engine, the command line, the web page and the index of one's own photos."""

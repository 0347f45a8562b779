"""Deformable part models (Felzenszwalb et al. 2010, voc-release5), read and run, and matched as star graphs."""

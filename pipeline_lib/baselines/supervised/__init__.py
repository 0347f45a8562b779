"""Networks that learn from sketch-photo pairs and classes: the Sketchy paper's Siamese and triplet networks.

Sangkloy, Burnell, Ham and Hays (The Sketchy Database: Learning to Retrieve Badly Drawn Bunnies, SIGGRAPH 2016).
"""

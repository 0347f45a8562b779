"""The pretext task: edge maps, the layout of regions, the 8 directions, views and batches."""

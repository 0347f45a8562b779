"""From images to ranked photos: embeddings, alignment, the index, metrics with intervals."""

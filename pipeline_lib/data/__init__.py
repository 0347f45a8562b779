"""Where images come from and how they travel: readers, the catalog, Parquet shards."""

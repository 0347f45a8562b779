"""What rankings are worth: metrics, comparison of systems, separation of domains."""

"""The training loop: exact resume, mixed precision, validation."""

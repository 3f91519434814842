"""Calibration: from a DiT checkpoint to hard assignments and codebooks."""

"""Engines: build, describe and verify engine directories."""

"""Weights on disk: what is published, fetched, installed and whole."""

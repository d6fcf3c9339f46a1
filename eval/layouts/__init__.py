"""Readers: every file layout that people publish ground truth or predictions in, to plain values."""

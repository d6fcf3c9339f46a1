"""Recipes: raw data in, our JSONL out, with a count of what was dropped and why. Run from the repository."""

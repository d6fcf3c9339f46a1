"""Verbs that are run from the repository, not installed: `python -m scripts.<name>`."""

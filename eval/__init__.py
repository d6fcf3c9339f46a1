"""Evaluation: predictions first, scores second. Run from the repository: `python -m eval.run TASK …`."""

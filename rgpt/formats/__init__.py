"""Files of others: one reader for each format, below recipes, evaluation and training."""

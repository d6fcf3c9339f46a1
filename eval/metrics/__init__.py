"""Pure functions from ground truth and predictions to numbers; nothing here opens a file of a data set."""

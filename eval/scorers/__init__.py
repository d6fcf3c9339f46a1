"""One task a module: reads both files, checks that they fit together, calls `eval.metrics`."""

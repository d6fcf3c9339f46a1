"""One benchmark a file. A task turns a model and its items into prediction rows, and rows into scores."""

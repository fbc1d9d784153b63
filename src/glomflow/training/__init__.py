"""One engine for every model."""

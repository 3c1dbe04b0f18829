"""One file per deployment."""

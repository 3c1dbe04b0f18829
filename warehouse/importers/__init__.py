"""One file per source, each a function from files to tables."""

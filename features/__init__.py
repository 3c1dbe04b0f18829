"""The same feature definitions offline and online."""

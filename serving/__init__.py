"""The model server: start, watch, stop, talk to."""

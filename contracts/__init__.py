"""What crosses a process boundary: tables, HTTP bodies, tensors, errors, settings."""

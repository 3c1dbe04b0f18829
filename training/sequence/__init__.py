"""Sequence model: who leaves, when, and what they are worth."""

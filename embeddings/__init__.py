"""Sentence vectors and vector search."""

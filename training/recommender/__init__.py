"""The two-tower recommender."""

"""Raw history in, clean tables out."""

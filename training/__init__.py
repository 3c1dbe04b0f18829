"""Models in PyTorch Lightning."""

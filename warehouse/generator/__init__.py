"""The parts of the seeded loyalty programme; `warehouse.generate` is the public face."""

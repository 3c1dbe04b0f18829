"""The Ray Serve applications. Start reading in app.py."""

from ray_apps import tuning as tuning  # its prefixes lie under REGULARS_SERVE_, whose reader must know them

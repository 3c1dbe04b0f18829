"""The Ray Serve applications. Start reading in app.py."""

"""Every call to the API server."""

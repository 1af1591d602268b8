"""The server: models behind one address, which many callers share."""

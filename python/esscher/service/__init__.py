"""Scoring and evaluation over gRPC: a server that holds the prior, and clients that need no model."""

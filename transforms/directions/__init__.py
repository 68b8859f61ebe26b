"""Directions from means, weights, Jacobians and style channels, and their algebra."""

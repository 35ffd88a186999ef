"""Asks a real Envoy what it says of resources, without serving them."""

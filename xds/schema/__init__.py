"""Envoy's API: its schema and rules, and checking and encoding of resources. Pure, except for one packaged file."""

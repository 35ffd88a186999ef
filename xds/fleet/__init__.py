"""The load test: many simulated sidecars against any xDS server. It knows our server no better than any other."""

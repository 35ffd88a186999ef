"""Shared parts of the tests: real Envoys, upstreams, load, certificates, resources and raw xDS clients.

All waits of the tests are in ``support.waiting``.
"""

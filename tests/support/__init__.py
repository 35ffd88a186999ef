"""What the tests stand on: real Envoys, upstreams, load, certificates, resources and raw xDS clients.

``support.waiting`` has every wait of the tests.
"""

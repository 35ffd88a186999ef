"""What the tests stand on: real Envoys, upstreams, load, certificates, resources and raw xDS clients.

Nothing here imports the product, save the compiled wire messages in ``support.wire`` and the bootstraps in
``support.forms``; ``support.server`` runs its command.
"""

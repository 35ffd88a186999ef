"""Why no Envoy can judge."""


class EnvoyMissingError(Exception):
    """There is no Envoy that could be run."""


class EnvoyUnusableError(Exception):
    """The Envoy can't be run, or refuses even a bootstrap without resources."""

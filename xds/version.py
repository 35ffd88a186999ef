"""The version of this product: the build, the command line and the servers read it here."""

__version__ = "0.1.0"

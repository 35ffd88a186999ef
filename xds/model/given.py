"""What callers may give as a resource. It is alone here, as its users need little else that the schema does."""

from typing import Any

ResourceLike = Any
"""A dict in Envoy's JSON form with ``@type``; YAML text of one, of a list of them, or of a file with ``resources:``; an
``envoy-data-plane`` or google.protobuf message; a pair of type URL and bytes; or a ``Resource``.
"""

"""Which way a request takes through the resources of a group. Pure."""

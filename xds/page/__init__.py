"""The page on the admin port: the fleet, its resources and their history, for browsers."""

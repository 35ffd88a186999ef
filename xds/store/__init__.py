"""The log of changesets that everything served comes from. It does not know what a resource means, nor who asks."""

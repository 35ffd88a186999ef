"""The one way in for changes, whoever makes them: checked, kept in the store, then served."""

"""The path of every change: checked, committed to the store, then served."""

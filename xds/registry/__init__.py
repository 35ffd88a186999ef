"""The nodes that are known: who is connected, who is gone, since when and why."""

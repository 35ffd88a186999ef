"""What a server process needs of its system: tasks, descriptors, memory, signals, private files."""

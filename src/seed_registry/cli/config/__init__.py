"""The settings of a command: from flags, the environment and a file."""

"""Compare the registry with an index: after a load, or at any later time."""

"""The rejects file: written by a load, and read to load its records again."""

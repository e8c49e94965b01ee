"""Read an index: from bytes to records. Knows no database."""

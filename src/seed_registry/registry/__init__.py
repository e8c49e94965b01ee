"""Write records to the two tables of the registry. Knows no file format."""

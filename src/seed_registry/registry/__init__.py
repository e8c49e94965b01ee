"""Writing: from records to the tables of a Postgres database. There are no file formats in here."""

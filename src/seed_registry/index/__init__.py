"""Reading: from the bytes of a file to records. There is no database in here."""

"""One run by many processes: its indexes are cut into shards, which workers scan and load."""

"""Connections to Postgres the way libpq makes them; knows none of the registry's tables."""

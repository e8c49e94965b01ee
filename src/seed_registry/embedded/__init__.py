"""The bundled Postgres server, the database of those who name none."""

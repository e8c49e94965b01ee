-- How many of these sources exist.
select pg_catalog.count(*) from {table} where {id_column} = any($1::pg_catalog.{id_type}[]);

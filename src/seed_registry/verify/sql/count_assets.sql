-- How many assets these sources have.
select pg_catalog.count(*) from {table} where {source_column} = any($1::pg_catalog.{id_type}[]);

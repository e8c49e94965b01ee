-- The keys of sources by their ids.
select {id_column} as id, {key_column}::pg_catalog.text as key
from {table}
where {id_column} = any($1::pg_catalog.{id_type}[]);

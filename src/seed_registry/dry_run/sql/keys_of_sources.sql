-- The keys of all assets of some sources.
select {key_column}::pg_catalog.text as key, {source_column}::pg_catalog.text as source_id, {provider}::pg_catalog.text as provider
from {table}
where {source_column} = any($1::pg_catalog.{id_type}[]);

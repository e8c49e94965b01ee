-- The keys of all assets of some sources that are not retired.
select {key_column}::pg_catalog.text as key, {source_column}::pg_catalog.text as source_id, {provider}::pg_catalog.text as provider
from {table} as existing
where {source_column} = any($1::pg_catalog.{id_type}[]) and not {is_retired};

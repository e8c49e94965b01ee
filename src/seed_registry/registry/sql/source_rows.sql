-- The rows of sources by their keys, whatever their provider.
select {key_column}::pg_catalog.text as key, {id_column} as id, {provider}::pg_catalog.text as provider
from {table}
where {key_column} = any($1::pg_catalog.text[]);

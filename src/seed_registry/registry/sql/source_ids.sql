-- The ids of sources by their keys.
select {key_column}::pg_catalog.text as key, {id_column} as id
from {table}
where {key_column} = any($1::pg_catalog.text[]) {and_provider};

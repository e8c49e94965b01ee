-- Those of these sources that an index described; a derived one has no content hash.
select {key_column}::pg_catalog.text as key
from {table}
where {id_column} = any($1::pg_catalog.{id_type}[]) {and_is_listed};

-- Which of these sources the table has from an index that described them; one that was only derived has no content hash.
select {key_column}::pg_catalog.text as key
from {table}
where {id_column} = any($1::pg_catalog.{id_type}[]) {and_is_listed};

-- Which of these sources the table has from an index that described them; one that was only derived has no content hash.
select {key_column}::pg_catalog.text as key
from {table}
where {key_column} = any($1::pg_catalog.text[]) {and_provider} {and_is_listed};

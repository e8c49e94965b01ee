-- The ids of sources by their keys.
select {key_column}::text as key, {id_column} as id
from {table}
where {key_column} = any($1::text[]) {and_provider};

-- How many assets these sources have that are not retired.
select {source_column} as source_id, pg_catalog.count(*) as held
from {table} as existing
where {source_column} = any($1::pg_catalog.{id_type}[]) and not {is_retired}
group by {source_column};

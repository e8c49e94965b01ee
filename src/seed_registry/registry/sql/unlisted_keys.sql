-- The keys of the assets of some sources that are not retired.
select {columns}
from {table} as existing
where {source_column} = any($1::pg_catalog.{id_type}[]) and not {is_retired};

-- Take the mark from the rows of these sources that have these asset keys and were retired.
update {table} as existing
set {retired_column} = null
where existing.{key_column} = any($1::pg_catalog.text[])
  and existing.{source_column} = any($2::pg_catalog.{id_type}[])
  and {is_retired};

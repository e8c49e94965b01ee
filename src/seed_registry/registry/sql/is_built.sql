-- Whether a table ($1) has the index or the constraint of this name ($2, $3) already, as somebody may have made it.
select case $2
  when 'index' then exists (
    select from pg_catalog.pg_index as index
    join pg_catalog.pg_class as class on class.oid = index.indexrelid
    where index.indrelid = pg_catalog.to_regclass($1) and index.indisvalid and class.relname = $3
      and pg_catalog.pg_get_indexdef(index.indexrelid) = $4
  )
  else exists (
    select from pg_catalog.pg_constraint as link
    where link.conrelid = pg_catalog.to_regclass($1) and link.convalidated and link.conname = $3
      and (link.contype = 'u' or pg_catalog.pg_get_constraintdef(link.oid) = $4)
  )
end;

-- Whether a table has no rows: then batches need no comparison, and may be copied straight into it.
select not exists (select 1 from {table});

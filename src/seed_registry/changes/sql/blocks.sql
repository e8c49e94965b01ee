-- blocks
-- How many blocks a table has, if a run created rows of it that are not recorded one by one.
select case
  when exists (select from seed_registry.created where run_id = $2) then
    (
      pg_catalog.pg_relation_size($1::pg_catalog.text::pg_catalog.regclass)
      / pg_catalog.current_setting('block_size')::pg_catalog.int8
    )
  else 0
end::pg_catalog.int8;

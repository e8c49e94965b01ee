-- Whether the database itself sees to it that every asset has a source.
select exists (
  select from pg_catalog.pg_constraint as link
  where link.contype = 'f'
    and link.convalidated
    and link.conrelid = pg_catalog.to_regclass($1)
    and link.confrelid = pg_catalog.to_regclass($2)
    and link.conkey = array(
      select attribute.attnum from pg_catalog.pg_attribute as attribute
      where attribute.attrelid = link.conrelid and attribute.attname = $3
    )
);

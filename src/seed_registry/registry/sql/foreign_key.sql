-- Whether a validated foreign key gives every asset a source, and which other table the column refers to.
select
  coalesce(pg_catalog.bool_or(link.confrelid = pg_catalog.to_regclass($2) and link.convalidated), false) as is_tied,
  pg_catalog.min(link.confrelid::pg_catalog.regclass::pg_catalog.text)
    filter (where link.confrelid <> pg_catalog.to_regclass($2)) as elsewhere
from pg_catalog.pg_constraint as link
where link.contype = 'f'
  and link.conrelid = pg_catalog.to_regclass($1)
  and link.conkey = array(
    select attribute.attnum from pg_catalog.pg_attribute as attribute
    where attribute.attrelid = link.conrelid and attribute.attname = $3
  );

-- Who owns the assets ($1), and whether this role may drop and build their indexes and their foreign key to the sources
-- ($2), and keep that in the ledger.
select
  pg_catalog.pg_get_userbyid(assets.relowner)::pg_catalog.text as owner,
  assets.relowner = sources.relowner
    and pg_catalog.pg_has_role(assets.relowner, 'member')
    and pg_catalog.has_schema_privilege(assets.relowner, assets.relnamespace, 'create') as is_owner,
  coalesce((
    select pg_catalog.pg_has_role(ledger.relowner, 'usage') from pg_catalog.pg_class as ledger
    where ledger.oid = pg_catalog.to_regclass('seed_registry.runs')
  ), false) as has_ledger
from pg_catalog.pg_class as assets, pg_catalog.pg_class as sources
where assets.oid = pg_catalog.to_regclass($1) and sources.oid = pg_catalog.to_regclass($2);

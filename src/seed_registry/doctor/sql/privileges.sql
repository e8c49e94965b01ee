-- The privileges that a load needs, as `grant` writes them, and whether the role has them.
with relation as (
  select class.oid, class.relname, class.relkind, namespace.oid as namespace
  from pg_catalog.pg_class as class
  join pg_catalog.pg_namespace as namespace on namespace.oid = class.relnamespace
  where namespace.nspname = $1
)
select 'temporary' as privilege, 'database' as kind, pg_catalog.current_database()::text as name,
  pg_catalog.has_database_privilege(pg_catalog.current_database(), 'temporary') as is_granted
union all
select 'usage', 'schema', namespace.nspname::text, pg_catalog.has_schema_privilege(namespace.oid, 'usage')
from pg_catalog.pg_namespace as namespace
where namespace.nspname = $1
union all
select wanted.privilege, 'table', relation.relname::text,
  pg_catalog.has_table_privilege(relation.oid, wanted.privilege)
from relation
cross join (values ('select'), ('insert'), ('update')) as wanted (privilege)
where relation.relkind in ('r', 'p') and relation.relname in ('sources', 'assets')
union all
-- ids of type serial; identity columns need no grant
select 'usage', 'sequence', sequence.relname::text, pg_catalog.has_sequence_privilege(sequence.oid, 'usage')
from relation as sequence
join pg_catalog.pg_depend as owned
  on owned.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and owned.objid = sequence.oid and owned.deptype = 'a'
join relation as owner on owner.oid = owned.refobjid
where sequence.relkind = 'S' and owner.relname in ('sources', 'assets');

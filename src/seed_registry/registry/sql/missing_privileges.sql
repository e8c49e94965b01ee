-- The privileges that this role lacks on the two tables, even on single columns, and on the sequences of their ids.
select pg_catalog.string_agg(missing, ', ')
from (
  select wanted.privilege || ' on ' || relation.name as missing
  from pg_catalog.unnest($1::pg_catalog.text[]) as relation (name)
  cross join (values ('select'), ('insert'), ('update')) as wanted (privilege)
  where not pg_catalog.has_any_column_privilege(relation.name::pg_catalog.regclass, wanted.privilege)
  union all
  -- ids of type serial; identity columns need no grant
  select 'usage on sequence ' || sequence.oid::pg_catalog.regclass
  from pg_catalog.pg_class as sequence
  join pg_catalog.pg_depend as used
    on used.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and used.refobjid = sequence.oid
    and used.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
  join pg_catalog.pg_attrdef as own on own.oid = used.objid
  where own.adrelid = any($1::pg_catalog.text[]::pg_catalog.regclass[])
    -- an error for anything but a sequence
    and case when sequence.relkind = 'S' then not pg_catalog.has_sequence_privilege(sequence.oid, 'usage, update') end
) as privilege

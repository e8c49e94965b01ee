-- What this role may not do with the two tables, not even with some of their columns.
select pg_catalog.string_agg(wanted.privilege || ' on ' || relation.name, ', ')
from pg_catalog.unnest($1::pg_catalog.text[]) as relation (name)
cross join (values ('select'), ('insert'), ('update')) as wanted (privilege)
where not pg_catalog.has_any_column_privilege(relation.name::pg_catalog.regclass, wanted.privilege)

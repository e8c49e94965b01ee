-- Properties of a table that decide whether, and how fast, a load can write to it.
select
  class.relkind::pg_catalog.text as kind,
  -- of a partitioned table see partitions.sql
  class.relpersistence = 'u' and class.relkind <> 'p' as is_unlogged,
  class.relrowsecurity
    and (class.relforcerowsecurity or not pg_catalog.pg_has_role(class.relowner, 'usage'))
    and not exists (
      select from pg_catalog.pg_roles as role
      where role.rolname = current_user and (role.rolsuper or role.rolbypassrls)
    ) as hides_rows,
  -- A rule on UPDATE forbids ON CONFLICT even when it is disabled.
  array(
    select rule.rulename::pg_catalog.text from pg_catalog.pg_rewrite as rule
    where rule.ev_class = class.oid
      and (rule.ev_type = '2' or (rule.ev_type = '3' and rule.ev_enabled in ('O', 'A')))
    order by rule.rulename
  ) as rules,
  array(
    select child.inhrelid::pg_catalog.regclass::pg_catalog.text from pg_catalog.pg_inherits as child
    where child.inhparent = class.oid and class.relkind <> 'p'
    order by 1
  ) as children,
  -- Those that publish its updates, if it has no replica identity.
  array(
    select publication.pubname::pg_catalog.text
    from pg_catalog.pg_publication as publication
    join pg_catalog.pg_publication_tables as published on published.pubname = publication.pubname
    where publication.pubupdate and class.relkind <> 'p'
      and published.schemaname = namespace.nspname
      and published.tablename = class.relname
      and class.relreplident <> 'f'
      and not exists (
        select from pg_catalog.pg_index as index
        where index.indrelid = class.oid
          and index.indisvalid
          and index.indimmediate
          and ((class.relreplident = 'd' and index.indisprimary) or (class.relreplident = 'i' and index.indisreplident))
      )
    order by publication.pubname
  ) as publications,
  -- Those that may change rows or keep them out: row triggers before INSERT or UPDATE.
  array(
    select trigger.tgname::pg_catalog.text from pg_catalog.pg_trigger as trigger
    where trigger.tgrelid = class.oid and not trigger.tgisinternal and trigger.tgenabled in ('O', 'A')
      and trigger.tgtype & 3 = 3 and trigger.tgtype & 20 <> 0
    order by trigger.tgname
  ) as triggers,
  exists (
    select from pg_catalog.pg_trigger as trigger
    where trigger.tgrelid = class.oid and not trigger.tgisinternal and trigger.tgenabled in ('O', 'A')
      and trigger.tgtype & 4 <> 0
  ) as has_insert_triggers,
  -- Whether the server has Citus, see distribution.sql.
  pg_catalog.to_regclass('pg_catalog.pg_dist_partition') is not null as has_citus
from pg_catalog.pg_class as class
join pg_catalog.pg_namespace as namespace on namespace.oid = class.relnamespace
where namespace.nspname = $1 and class.relname = $2;

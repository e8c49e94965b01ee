-- The partitions of a table ($1) on all levels, as far as they decide whether, and how fast, a load can write to it. What
-- is said of the table itself by name (rules, row security, privileges) holds for its rows, whatever is said of the
-- partitions.
with part as (
  select
    class.oid, pg_catalog.quote_ident(namespace.nspname) as schema, class.relname, class.relkind, class.relpersistence,
    class.relreplident,
    class.oid::pg_catalog.regclass::pg_catalog.text as name,
    tree.parentrelid as parent, tree.isleaf as is_leaf,
    pg_catalog.pg_get_expr(class.relpartbound, class.oid) as bounds
  from pg_catalog.pg_partition_tree(pg_catalog.to_regclass($1)) as tree
  join pg_catalog.pg_class as class on class.oid = tree.relid
  join pg_catalog.pg_namespace as namespace on namespace.oid = class.relnamespace
),
-- A partition that is there and takes no rows until its detaching is finished is none.
divided as (
  select
    part.oid, part.name, part.relname, part.schema,
    partitioned.partstrat as strategy, partitioned.partdefid <> 0 as has_default,
    (select pg_catalog.count(*) from part as child where child.parent = part.oid) as children,
    (
      select pg_catalog.string_agg(
        pg_catalog.format(
          'alter table %s detach partition %s finalize; ', part.name, child.inhrelid::pg_catalog.regclass
        ), ''
      )
      from pg_catalog.pg_inherits as child
      -- there is no such column before Postgres 14
      where child.inhparent = part.oid and (pg_catalog.to_jsonb(child) ->> 'inhdetachpending')::pg_catalog.bool
    ) as finalize,
    partitioned.partattrs as columns
  from part
  join pg_catalog.pg_partitioned_table as partitioned on partitioned.partrelid = part.oid
),
hashed as (
  select
    part.parent,
    (pg_catalog.regexp_match(part.bounds, 'modulus (\d+), remainder (\d+)'))[1]::pg_catalog.int4 as modulus,
    (pg_catalog.regexp_match(part.bounds, 'modulus (\d+), remainder (\d+)'))[2]::pg_catalog.int4 as remainder
  from part
  join divided on divided.oid = part.parent and divided.strategy = 'h'
),
-- Of several moduli each divides the next: the largest counts what there has to be.
missing as (
  select divided.name, divided.schema, divided.relname, divided.finalize, whole.modulus, lack.remainder
  from divided
  cross join lateral (
    select coalesce(pg_catalog.max(hashed.modulus), 1) as modulus from hashed where hashed.parent = divided.oid
  ) as whole
  cross join lateral pg_catalog.generate_series(0, whole.modulus - 1) as lack (remainder)
  where divided.strategy = 'h'
    and not exists (
      select from hashed
      where hashed.parent = divided.oid and lack.remainder % hashed.modulus = hashed.remainder
    )
),
watching as (
  select trigger.tgname::pg_catalog.text as name, part.name as partition, trigger.tgtype, trigger.tgparentid
  from pg_catalog.pg_trigger as trigger
  join part on part.oid = trigger.tgrelid and part.oid <> pg_catalog.to_regclass($1)
  where trigger.tgenabled in ('O', 'A') and trigger.tgtype & 1 = 1
    -- the server marks copies of the table's own triggers as internal before Postgres 15
    and not trigger.tgisinternal and trigger.tgparentid = 0
)
select
  (select pg_catalog.count(*) from part where is_leaf) as partitions,
  array(
    select distinct attribute.attname::pg_catalog.text
    from divided
    cross join pg_catalog.unnest(divided.columns) as keyed (number)
    -- an expression has no column
    left join pg_catalog.pg_attribute as attribute
      on attribute.attrelid = divided.oid and attribute.attnum = keyed.number
  ) as columns,
  array(
    select pg_catalog.format('alter table %s detach partition %s;', part.parent::pg_catalog.regclass, part.name)
    from part where part.relkind = 'f' order by part.name
  ) as foreign_tables,
  array(
    select
      coalesce(finalize, '')
        || pg_catalog.format(
          'create table %s.%I partition of %s for values with (modulus %s, remainder %s);',
          schema, relname || '_' || modulus || '_' || remainder, name, modulus, remainder
        )
    from missing order by name, remainder
  ) as missing,
  -- a range without its ends may have gaps as well
  array(
    select
      coalesce(finalize, '')
        || pg_catalog.format('create table %s.%I partition of %s default;', schema, relname || '_default', name)
    from divided
    where strategy <> 'h' and not has_default
      and not (
        strategy = 'r'
        and exists (select from part where part.parent = divided.oid and part.bounds like 'FOR VALUES FROM (MINVALUE%')
        and exists (select from part where part.parent = divided.oid and part.bounds like '%TO (MAXVALUE%')
      )
    order by name
  ) as without_default,
  array(select name from part where is_leaf and relpersistence = 'u' order by name) as unlogged,
  -- those whose updates are published, by their own name or a parent's, without a replica identity
  array(
    select part.name
    from part
    where part.is_leaf and part.relreplident <> 'f'
      and not exists (
        select from pg_catalog.pg_index as index
        where index.indrelid = part.oid
          and index.indisvalid
          and index.indimmediate
          and ((part.relreplident = 'd' and index.indisprimary) or (part.relreplident = 'i' and index.indisreplident))
      )
      and exists (
        select
        from pg_catalog.pg_partition_ancestors(part.oid) as ancestor (oid)
        join pg_catalog.pg_class as class on class.oid = ancestor.oid
        join pg_catalog.pg_namespace as namespace on namespace.oid = class.relnamespace
        join pg_catalog.pg_publication_tables as published
          on published.schemaname = namespace.nspname and published.tablename = class.relname
        join pg_catalog.pg_publication as publication on publication.pubname = published.pubname
        where publication.pubupdate
      )
    order by part.name
  ) as published,
  -- row triggers of single partitions that may change rows or keep them out
  array(select distinct name from watching where tgtype & 2 = 2 and tgtype & 20 <> 0 order by name) as triggers,
  array(
    select distinct partition from watching where tgtype & 2 = 2 and tgtype & 20 <> 0 order by partition
  ) as with_triggers,
  exists (select from watching where tgtype & 4 <> 0) as has_insert_triggers;

-- Whether there is a ledger, of this version, and whether this role may write to it. By oid: a name in a schema that the
-- role may not use is an error, not an answer.
with relations as (
  select
    relation.relname,
    -- what a load by several processes needs besides
    relation.relname in (
      'shards', 'shard_jobs', 'shard_rejects', 'shard_keys', 'shard_repeats', 'shard_listed', 'parked'
    ) as is_of_shards,
    relation.relname in ('changes', 'created', 'change_sets') as is_of_history,
    2 = (
      select pg_catalog.count(*) from pg_catalog.pg_attribute as attribute
      where attribute.attrelid = relation.oid and not attribute.attisdropped
        and attribute.attname = any(
          case relation.relname
            when 'checkpoints' then array['attempt', 'updated_by_older'] when 'runs' then array['history', 'undoes']
          end
        )
    ) as is_current,
    pg_catalog.has_schema_privilege(namespace.oid, 'usage')
      and pg_catalog.has_table_privilege(relation.oid, 'select')
      and pg_catalog.has_table_privilege(relation.oid, 'insert')
      and pg_catalog.has_table_privilege(relation.oid, 'update')
      and (relation.relname = 'runs' or pg_catalog.has_table_privilege(relation.oid, 'delete')) as is_usable
  from pg_catalog.pg_class as relation
  join pg_catalog.pg_namespace as namespace on namespace.oid = relation.relnamespace
  where namespace.nspname = 'seed_registry'
    and relation.relname in (
      'runs', 'checkpoints', 'run_sources', 'listed_keys', 'changes', 'created', 'change_sets',
      'shards', 'shard_jobs', 'shard_rejects', 'shard_keys', 'shard_repeats', 'shard_listed', 'parked'
    )
)
select
  pg_catalog.count(*) filter (where relname in ('runs', 'checkpoints')) = 2 as is_there,
  coalesce(pg_catalog.bool_and(is_current) filter (where relname in ('runs', 'checkpoints')), false)
    and pg_catalog.bool_or(relname = 'shard_jobs') as is_current,
  coalesce(pg_catalog.bool_and(is_usable) filter (where not is_of_shards and not is_of_history), false) as is_usable,
  coalesce(pg_catalog.bool_and(is_usable) filter (where is_of_shards), false) as has_shards,
  pg_catalog.count(*) filter (where is_of_history and is_usable) = 3 as has_history
from relations;

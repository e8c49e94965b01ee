-- What a run changed, in all its attempts: by relation and kind, and the sources whose assets changed most.
with by_source as (
  select
    relation, kind, source_key, pg_catalog.count(*) as changes,
    pg_catalog.min(asset_key collate "C") as first_key, pg_catalog.max(asset_key collate "C") as last_key
  from seed_registry.changes
  where run_id = $1 and not (relation = 'assets' and asset_key is null)
  group by relation, kind, source_key
),
-- The entry for all of these rows may not be there yet.
created as (
  select pg_catalog.sum(rows)::pg_catalog.int8 as rows from seed_registry.created where run_id = $1
),
totals as (
  select relation, kind, pg_catalog.sum(changes)::pg_catalog.int8 as changes
  from (
    select relation, kind, changes from by_source
    union all
    select 'assets', 'inserted', rows from created where rows is not null
  ) as counted
  group by relation, kind
),
sources as (
  select
    source_key,
    pg_catalog.sum(changes)::pg_catalog.int8 as changes,
    pg_catalog.jsonb_object_agg(kind, changes) as kinds,
    pg_catalog.jsonb_object_agg(
      kind,
      case when first_key = last_key then pg_catalog.jsonb_build_array(first_key)
        else pg_catalog.jsonb_build_array(first_key, last_key) end
    ) as keys
  from by_source
  where relation = 'assets' and source_key is not null
  group by source_key
)
select
  coalesce((select pg_catalog.jsonb_object_agg(kind, changes) from totals where relation = 'assets'), '{}')
    ::pg_catalog.text as assets,
  coalesce((select pg_catalog.jsonb_object_agg(kind, changes) from totals where relation = 'sources'), '{}')
    ::pg_catalog.text as sources,
  coalesce((select rows from created), 0) as created,
  (select pg_catalog.count(*) from sources) as source_count,
  coalesce(
    (
      select pg_catalog.jsonb_agg(
        pg_catalog.jsonb_build_object('source', source_key, 'kinds', kinds, 'keys', keys)
        order by changes desc, source_key collate "C"
      )
      from (select * from sources order by changes desc, source_key collate "C" limit $2) as most
    ),
    '[]'
  )::pg_catalog.text as per_source;

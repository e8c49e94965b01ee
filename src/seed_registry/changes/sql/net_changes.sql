-- What the sets that ended behind one moment, up to another, changed in each row: its first and its last change there.
with changed as (
  select change.*
  from seed_registry.change_sets as sets
  join seed_registry.changes as change
    on change.run_id = sets.run_id and change.id >= sets.first_id and change.id <= sets.last_id
  where sets.ended_at > $1 and sets.ended_at <= $2 and change.key <> '{}'
),
by_row as (
  select
    relation,
    key,
    pg_catalog.count(*) as changes,
    pg_catalog.min(id) as first_id,
    pg_catalog.max(id) as last_id,
    (pg_catalog.array_agg(before is null order by id))[1] as is_new,
    (pg_catalog.array_agg(created_by order by id))[1] as created_by,
    (pg_catalog.array_agg(created_hash order by id))[1] as created_hash,
    (pg_catalog.array_agg(hash order by id desc))[1] as hash,
    (pg_catalog.array_agg(provider order by id desc))[1] as provider,
    (pg_catalog.array_agg(source_key order by id desc))[1] as source_key,
    (pg_catalog.array_agg(asset_key order by id desc))[1] as asset_key,
    pg_catalog.bool_and(fields = '{retired_at}') as are_marks,
    -- Was it marked as retired before; is it afterwards? NULL where no change touched the mark.
    (
      pg_catalog.array_agg(before ->> 'retired_at' is not null order by id)
        filter (where before is not null and ('retired_at' = any(fields) or hash is null))
    )[1] as was_retired,
    (
      pg_catalog.array_agg(
        before is not null and (kind = 'retired' or (kind = 'undone' and before ->> 'retired_at' is null))
        order by id desc
      ) filter (where before is null or 'retired_at' = any(fields))
    )[1] as is_retired
  from changed
  group by relation, key
)
select
  by_row.*,
  case
    when changes = 1 or is_new or hash is null then null
    when created_by is not null then created_hash
    when relation = 'assets' then (
      select earlier.hash from seed_registry.changes as earlier
      where earlier.asset_key = by_row.asset_key and earlier.relation = 'assets' and earlier.key = by_row.key
        and earlier.id < by_row.first_id
      order by earlier.id desc
      limit 1
    )
    else (
      select earlier.hash
      from seed_registry.runs as run
      cross join lateral (
        select id, hash from seed_registry.changes
        where run_id = run.run_id and relation = by_row.relation and key = by_row.key and id < by_row.first_id
        order by id desc
        limit 1
      ) as earlier
      where run.history is not null
      order by earlier.id desc
      limit 1
    )
  end as hash_before
from by_row
order by relation desc, key;

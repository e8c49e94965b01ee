-- record_changes
-- A part of the statements that change rows: what changed in `asset` or `source`, as they are now, from `before`. What a
-- trigger has taken back is no change.
recorded as (
  insert into seed_registry.changes
    (run_id, relation, kind, key, provider, source_key, asset_key, fields, before, hash, created_by, created_hash)
  select *
  from (
    select {run_id} as run_id, '{relation}' as relation, {kind} as kind, {key} as key, {provider} as provider,
      {source_key} as source_key, {asset_key} as asset_key, {fields} as fields, {before} as before,
      {hash}::pg_catalog.bytea as hash,
      {created_by} as created_by, {created_hash}::pg_catalog.bytea as created_hash
    from {rows}
    order by {order}
  ) as change
  where before is null or fields <> '{{}}'
)

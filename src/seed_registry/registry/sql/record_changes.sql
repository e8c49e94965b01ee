-- record_changes
-- A part of the statements that change rows: what changed in `asset` or `source`, as they are now, from `before`.
recorded as (
  insert into seed_registry.changes
    (run_id, relation, kind, key, provider, source_key, asset_key, fields, before, hash, created_by, created_hash)
  select {run_id}, '{relation}', {kind}, {key}, {provider}, {source_key}, {asset_key}, {fields}, {before},
    {hash}, {created_by}, {created_hash}
  from {rows}
  order by {order}
)

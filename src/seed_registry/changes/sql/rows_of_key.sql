-- The assets with a key as they are: their values as changes hold them, the hash that the last change of each would have,
-- and the run that created it into an empty table, if nothing has changed it since.
select
  {values} as values,
  {hash} as hash,
  {key} as key,
  {provider} as provider,
  source.{source_key}::pg_catalog.text as source_key,
  {created_by} as created_by
from {assets} as asset
left join {sources} as source on source.{id} = asset.{source_id}
{created}
where asset.{asset_key} = $1::pg_catalog.text;

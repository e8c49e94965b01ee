-- Some assets that have no source.
select asset.{key_column}::text as asset_key
from {assets} as asset
where not exists (select 1 from {sources} as source where source.{id_column} = asset.{source_column})
order by asset.{key_column}::text collate pg_catalog."C"
limit $1;

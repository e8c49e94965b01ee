-- How many assets have no source; only asked where no foreign key answers it.
select pg_catalog.count(*)
from {assets} as asset
where not exists (select 1 from {sources} as source where source.{id_column} = asset.{source_column});

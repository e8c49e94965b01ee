-- The hash of an asset with these values, each given as a text.
select {hash} as hash
from (select {values}) as asset
left join {sources} as source on source.{id} = asset.{source_id};

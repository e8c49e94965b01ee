-- The content hashes of rows that the upsert before left alone, for they have the values of the staged batch.
-- It locked them in key order, so this waits for nobody.
update {table} as existing
set {hash_column} = staged.content_hash
from {staging} as staged
where {same_key}
  and staged.content_hash is not null
  and existing.{hash_column} is distinct from staged.content_hash;

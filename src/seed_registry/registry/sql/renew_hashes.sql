-- Write the content hashes of rows that the upsert before did not touch, because they equal the staged batch.
-- The upsert locked them in key order, so this does not wait.
update {table} as existing
set {hash_column} = staged.content_hash
from {staging} as staged
where {same_key}
  and staged.content_hash is not null
  and existing.{hash_column} is distinct from staged.content_hash;

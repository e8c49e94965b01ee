-- How many blocks a table ($1) has, or each of its partitions, if the first look at a row may write its page to the WAL:
-- with checksums, or for pg_rewind. Before Postgres 14 a range of blocks cannot be read without reading all of them.
-- How far the WAL is written, and how far it is on disk: only commits that are there are noted in pages.
select
  pg_catalog.format('%I.%I', namespace.nspname, class.relname) as name,
  pg_catalog.pg_relation_size(class.oid) / pg_catalog.current_setting('block_size')::pg_catalog.int8 as blocks,
  (pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_catalog.pg_lsn)::pg_catalog.int8 as written,
  (pg_catalog.pg_current_wal_flush_lsn() - '0/0'::pg_catalog.pg_lsn)::pg_catalog.int8 as flushed
from pg_catalog.pg_class as class
join pg_catalog.pg_namespace as namespace on namespace.oid = class.relnamespace
where class.relkind = 'r' and class.relpersistence = 'p'
  and (
    class.oid = pg_catalog.to_regclass($1)
    or class.oid in (select relid from pg_catalog.pg_partition_tree(pg_catalog.to_regclass($1)))
  )
  and 'on' in (pg_catalog.current_setting('data_checksums'), pg_catalog.current_setting('wal_log_hints'))
  and pg_catalog.current_setting('server_version_num')::pg_catalog.int4 >= 140000;

-- Whether the server was built with lz4, which packs several times as fast as its own pglz.
select coalesce(
  (select 'lz4' = any(enumvals) from pg_catalog.pg_settings where name = 'default_toast_compression'), false
);

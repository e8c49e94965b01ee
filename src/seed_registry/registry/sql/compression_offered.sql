-- The compression methods of the server. Before Postgres 14 there is no such setting, and pglz is the only method.
select
  coalesce(pg_catalog.bool_or('lz4' = any(enumvals)), false) as has_lz4,
  coalesce(pg_catalog.bool_or('pglz' = any(enumvals)), false) as has_choice,
  -- sessions of this program set lz4
  coalesce(pg_catalog.bool_or(source <> 'default' and setting <> 'lz4'), false) as is_set_otherwise
from pg_catalog.pg_settings
where name = 'default_toast_compression';

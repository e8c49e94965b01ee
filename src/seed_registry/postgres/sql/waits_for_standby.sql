-- Behind a pooler nobody knows which session is whose: then that of any of this role's.
select exists (
    select
    from pg_catalog.pg_stat_activity
    where wait_event = 'SyncRep'
      and datname = pg_catalog.current_database()
      and case when $1::pg_catalog.int4 is null then usename = current_user else pid = $1 end
)

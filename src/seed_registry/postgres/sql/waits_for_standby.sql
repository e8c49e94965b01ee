-- Whether a session waits for a synchronous standby; behind a pooler ($1 is null) whether any of this role does.
select exists (
    select
    from pg_catalog.pg_stat_activity
    where wait_event = 'SyncRep'
      and datname = pg_catalog.current_database()
      and case when $1::pg_catalog.int4 is null then usename = current_user else pid = $1 end
)

-- The sessions that have held a lock which blocks writers of a table of ours for longer than lock_timeout.
select distinct activity.pid, activity.application_name, activity.state, activity.xact_start
from pg_catalog.pg_locks as held
join pg_catalog.pg_stat_activity as activity on activity.pid = held.pid
join pg_catalog.pg_class as relation on relation.oid = held.relation
where held.granted
  and held.locktype = 'relation'
  and held.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
  and relation.relnamespace not in ('pg_catalog'::pg_catalog.regnamespace, 'information_schema'::pg_catalog.regnamespace)
  and held.mode not in ('AccessShareLock', 'RowShareLock')
  and activity.xact_start < pg_catalog.clock_timestamp() - pg_catalog.current_setting('lock_timeout')::pg_catalog.interval
order by activity.xact_start
limit 3

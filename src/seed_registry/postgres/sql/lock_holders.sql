-- The other sessions that hold an advisory lock; its number is in two halves, as in pg_locks. What this role may not
-- see of them is null.
select activity.pid,
       activity.application_name,
       pg_catalog.host(activity.client_addr) as address,
       activity.backend_start,
       activity.state,
       activity.wait_event is not distinct from 'SyncRep' as waits_for_standby
from pg_catalog.pg_locks as lock
join pg_catalog.pg_stat_activity as activity on activity.pid = lock.pid
where lock.locktype = 'advisory'
  and lock.granted
  and lock.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
  and lock.classid::pg_catalog.int8 = $1
  and lock.objid::pg_catalog.int8 = $2
  and lock.objsubid = 1
  and lock.pid <> pg_catalog.pg_backend_pid()
order by activity.backend_start nulls last, activity.pid

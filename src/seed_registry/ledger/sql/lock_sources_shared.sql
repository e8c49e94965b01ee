-- Wait until no run retires assets of these sources, and keep it from that until the transaction ends.
select pg_catalog.pg_advisory_xact_lock_shared(number)
from pg_catalog.unnest($1::pg_catalog.int8[]) as source (number);

-- Wait until no run notes these sources or retires their assets, and keep others from that until the transaction ends.
select pg_catalog.pg_advisory_xact_lock(number)
from pg_catalog.unnest($1::pg_catalog.int8[]) as source (number);

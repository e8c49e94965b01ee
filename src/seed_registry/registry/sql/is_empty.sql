-- Whether a table has no rows: then there is nothing to compare with, and the shortest way in may be taken.
select not exists (select from {table});

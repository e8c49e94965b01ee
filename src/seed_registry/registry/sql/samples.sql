-- A few rows that a table has, as a batch would bring them.
select {values} from {table} as existing {condition} limit 3;

-- A few rows of a table, in the form in which a batch is staged.
select {values} from {table} as existing {condition} limit 3;

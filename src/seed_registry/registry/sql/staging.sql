-- One per session, emptied by every commit: a table made for each batch would bloat the catalogs.
create temporary table if not exists {staging} ({definitions}) on commit {on_commit};

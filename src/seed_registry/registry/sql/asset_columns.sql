name         text,
description  text,
url          text,
updated_at   timestamptz,
raw          jsonb{compression},
content_hash bytea,
created_at   timestamptz not null default now(),
-- when its portal was first seen not to list it any more
retired_at   timestamptz

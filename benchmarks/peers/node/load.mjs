// The classic design: read a record, validate it, collect 500, INSERT … ON CONFLICT DO UPDATE over four connections.
//
//   DATABASE_URL=postgresql://… node load.mjs index.ndjson|index.json
//
// Lines are read by readline and JSON.parse, which keeps a line's text for `raw`; a document by stream-json. Prints its time without that of starting Node.

import {createReadStream} from 'node:fs';
import {createInterface} from 'node:readline';
import pg from 'pg';
import chain from 'stream-chain';
import {parser} from 'stream-json';
import {pick} from 'stream-json/filters/pick.js';
import {streamValues} from 'stream-json/streamers/stream-values.js';
import {z} from 'zod';

const BATCH = 500;
const CONNECTIONS = 4;

const Source = z.object({
  provider: z.string().min(1).default('socrata'),
  source_key: z.string().trim().toLowerCase().min(1),
  name: z.string().nullish(),
  url: z.string().nullish(),
});
const Asset = z.object({
  asset_key: z.string().trim().min(1),
  source_key: z.string().trim().toLowerCase().min(1),
  name: z.string().nullish(),
  description: z.string().nullish(),
  url: z.string().nullish(),
  updated_at: z.iso.datetime({offset: true}).nullish(),
});

const UPSERT_SOURCE = `
  insert into registry.sources (provider, source_key, name, url, raw) values ($1, $2, $3, $4, $5)
  on conflict (provider, source_key) do update
  set name = excluded.name, url = excluded.url, raw = excluded.raw, updated_at = now()
  returning id`;

/** One statement for a batch: ($1, …, $7), ($8, …), … */
function upsertAssets(count) {
  const tuples = Array.from({length: count}, (_, row) => {
    const parameters = [1, 2, 3, 4, 5, 6, 7].map((column) => `$${row * 7 + column}`);
    return `(${parameters.join(', ')})`;
  });
  return `
    insert into registry.assets as existing (asset_key, source_id, name, description, url, updated_at, raw)
    values ${tuples.join(', ')}
    on conflict (asset_key) do update
    set source_id = excluded.source_id, name = excluded.name, description = excluded.description, url = excluded.url,
        updated_at = greatest(existing.updated_at, excluded.updated_at), raw = excluded.raw`;
}

const UPSERT_BATCH = upsertAssets(BATCH);

async function* lines(path) {
  for await (const line of createInterface({input: createReadStream(path), crlfDelay: Infinity})) {
    if (line) yield [JSON.parse(line), line];
  }
}

async function* document(path) {
  const records = chain([
    createReadStream(path),
    parser({streamValues: false}), // values whole, not piece by piece: half the time
    pick({filter: /^(?:sources|assets)\.\d+(?=\.|$)/}),
    streamValues(),
  ]);
  for await (const {value} of records) yield [value, JSON.stringify(value)];
}

async function load(path, pool) {
  const sourceIds = new Map();
  const running = new Set();
  let batch = new Map(); // by key: a statement may not touch a row twice

  async function flush() {
    const rows = [...batch.values()];
    batch = new Map();
    while (running.size >= CONNECTIONS) await Promise.race(running);
    const text = rows.length === BATCH ? UPSERT_BATCH : upsertAssets(rows.length);
    // Prepared once a connection by its name: measured quicker than unnamed, and than unnest() of seven arrays.
    const query = pool.query({name: `upsert_${rows.length}`, text, values: rows.flat()});
    const done = query.finally(() => running.delete(done));
    running.add(done);
  }

  for await (const [value, raw] of path.endsWith('.ndjson') ? lines(path) : document(path)) {
    if (value.asset_key === undefined) {
      const source = Source.parse(value);
      const {rows} = await pool.query(UPSERT_SOURCE, [
        source.provider, source.source_key, source.name, source.url, raw,
      ]);
      sourceIds.set(source.source_key, rows[0].id);
      continue;
    }
    const asset = Asset.parse(value);
    const sourceId = sourceIds.get(asset.source_key);
    if (sourceId === undefined) throw new Error(`${asset.asset_key}: no such source`);
    batch.set(asset.asset_key, [
      asset.asset_key, sourceId, asset.name, asset.description, asset.url, asset.updated_at, raw,
    ]);
    if (batch.size === BATCH) await flush();
  }
  if (batch.size) await flush();
  await Promise.all(running);
}

const started = performance.now();
const pool = new pg.Pool({connectionString: process.env.DATABASE_URL, max: CONNECTIONS});
await load(process.argv[2], pool);
await pool.end();
console.log(JSON.stringify({seconds: (performance.now() - started) / 1000}));

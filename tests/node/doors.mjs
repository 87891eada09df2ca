// Run by tests/workers/test_doors.py: does what the JSON in its argument asks for, and prints what came back as JSON.
import Redis from "ioredis";
import pg from "pg";

import { encode, searchText, submit } from "./sightline.mjs";

const { redisUrl, prefix, database, id, job, texts, words } = JSON.parse(process.argv[2]);
const redis = new Redis(redisUrl);
const postgres = new pg.Client(database);
await postgres.connect();
const results = { submitted: [], errors: [] };
try {
  results.submitted.push(await submit(redis, prefix, job, id), await submit(redis, prefix, job, id));
  results.reply = await encode(redis, prefix, texts);
  results.refused = await encode(redis, prefix, [7]);
  results.hits = await searchText(postgres, words, 3);
  results.again = await searchText(postgres, words, 3);
  await postgres.query("begin");
  await searchText(postgres, `${words}, in a transaction`).catch((error) => results.errors.push(`${error.message} ${error.where}`));
  await postgres.query("rollback");
} finally {
  await postgres.end();
  redis.disconnect();
}
console.log(JSON.stringify(results));

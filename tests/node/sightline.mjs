// sightline's doors for a service in Node: a job as a Celery message, a call, a search in SQL.
import { randomUUID } from "node:crypto";

/** One Celery message (protocol 2). Whoever sends it again with the same id sends the same job. */
export async function send(redis, prefix, queue, task, kwargs, id = randomUUID()) {
  const body = [[], kwargs, { callbacks: null, errbacks: null, chain: null, chord: null }];
  await redis.lpush(prefix + queue, JSON.stringify({
    "body": Buffer.from(JSON.stringify(body)).toString("base64"),
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": { lang: "js", task, id, root_id: id, ignore_result: true },
    "properties": {
      body_encoding: "base64", correlation_id: id, delivery_info: { exchange: "", routing_key: queue },
      delivery_mode: 2, delivery_tag: randomUUID(), priority: 0,
    },
  }));
  return id;
}

/** Submit a job: the arguments of SQL's `submit`. */
export function submit(redis, prefix, job, id) {
  return send(redis, prefix, "submit", "sightline.submit", job, id);
}

/** Encode texts now; the answer has `vectors`, or `error`. Null: no worker answered in time. */
export async function encode(redis, prefix, texts, { space = "current", queue = "encode", seconds = 10 } = {}) {
  const [now, micros] = await redis.time();
  const reply_key = `${prefix}reply:${randomUUID()}`;
  await send(redis, prefix, `${queue}.interactive`, "sightline.call", {
    kind: "encode", space, inputs: texts.map((text) => ({ text })),
    reply_key, deadline: Number(now) + Number(micros) / 1e6 + seconds,
  });
  const answer = await redis.blpop(reply_key, seconds);
  return answer && JSON.parse(answer[1]);
}

/** Search in words, with a connection of `pg` in autocommit mode. */
export async function searchText(postgres, words, k = 10) {
  const { rows } = await postgres.query("call sightline.search_text($1, $2)", [words, k]);
  return rows[0].hits;
}

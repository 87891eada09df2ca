-- Messages from other languages (Celery task `sightline.submit`): what could not be submitted. `submit` says why; nothing is thrown away.

create table sightline.refused_message (
  message_id  text not null,
  received_at timestamptz not null default clock_timestamp(),
  request     text not null,   -- the arguments as JSON, at most the first 100,000 characters
  error       text not null,
  primary key (message_id, received_at)
);

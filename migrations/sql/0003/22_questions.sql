-- Ask in SQL: `call sightline.search_text('red shoes')`. A question is a text to encode: whoever asks inserts it, commits and waits; the leading
-- worker has it encoded and stores the vector, which then answers the same question at once.

create table sightline.question (
  question_id bigint generated always as identity primary key,
  space_id    smallint not null references sightline.space on delete cascade,
  digest      bytea not null check (length(digest) = 32),   -- of the text
  text        text not null check (length(text) <= 10000),
  state       text not null default 'asked' check (state in ('asked', 'answered', 'failed')),
  asked_at    timestamptz not null default clock_timestamp(),
  deadline    timestamptz not null,
  taken_at    timestamptz,             -- by a worker that led; long ago: it does no more
  answered_at timestamptz,
  vec         {vector}.halfvec,
  note        text,                    -- what the vector does not show of the text
  error       text,
  unique (space_id, digest),
  constraint question_answered_has_vector check ((state = 'answered') = (vec is not null)),
  constraint question_failed_has_error check ((state = 'failed') = (error is not null))
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500);
create index question_open on sightline.question (question_id) where state = 'asked';
create index question_answered on sightline.question (answered_at) where state <> 'asked';

-- What somebody who waits for an answer may know of it.
create function sightline.answer_to(space text, words text, out state text, out vec {vector}.halfvec, out note text, out error text)
language sql stable security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select q.state, q.vec, q.note, q.error from sightline.question q
  where q.space_id = (sightline.resolve_space(space)).space_id and q.digest = sha256(convert_to(words, 'UTF8'))
$$;

-- Ask for the vector of a text. What is being asked already is asked once.
create function sightline.ask_text(space text, words text, seconds float8) returns void
language plpgsql security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target sightline.space := sightline.resolve_space(space);
begin
  if 'text' <> all (target.modalities) then
    raise exception 'space "%" takes no text: its model % does not encode it', target.name, target.model using errcode = 'invalid_parameter_value';
  elsif words is null or words !~ '\S' or length(words) > 10000 then
    raise exception 'a query is a text of 1 to 10,000 characters, not %',
      case when words is null then 'null' when length(words) > 10000 then length(words) || ' characters' else 'an empty one' end
      using errcode = 'invalid_parameter_value';
  elsif seconds is null or not seconds between 0.001 and 3600 then
    raise exception 'seconds must lie between 0.001 and 3600, not %', coalesce(seconds::text, 'null') using errcode = 'invalid_parameter_value';
  end if;
  insert into sightline.question as q (space_id, digest, text, deadline)
  values (target.space_id, sha256(convert_to(words, 'UTF8')), words, clock_timestamp() + seconds * interval '1 second')
  on conflict on constraint question_space_id_digest_key do update set
    deadline = greatest(q.deadline, excluded.deadline), state = 'asked', error = null, asked_at = excluded.asked_at,
    taken_at = case when q.state = 'asked' and q.deadline > clock_timestamp() then q.taken_at end
  where q.state = 'failed' or q.state = 'asked' and q.deadline < excluded.deadline;
end $$;

-- The vector of a text that was asked before: for joins with `nearest` and the typed views.
create function sightline.query_vector(words text, space text default 'current') returns {vector}.halfvec
language plpgsql stable security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  known record;
begin
  select a.* into known from sightline.answer_to(space, words) a;
  if known.vec is null then
    raise exception 'the vector of "%" is not known', left(words, 100) using errcode = 'no_data_found',
      hint = format('Ask for it first, outside a transaction: call sightline.search_text(%L, space => %L);', left(words, 100), space);
  end if;
  return known.vec;
end $$;

-- The name says what is wrong where this commit fails: the message of Postgres is only "invalid transaction termination".
create procedure sightline.search_text_must_be_called_outside_a_transaction_block() language plpgsql as $$
begin
  commit;
end $$;

-- Search in words: as `nearest` of the text's vector, which a worker makes. Returns one row with the hits as a JSON array. The question must be
-- committed to be seen, so it works in autocommit mode only; a question that was asked before is answered anywhere, also on a replica.
create procedure sightline.search_text(
  query text, k int default 10, inout hits jsonb default null, collection text default null, space text default 'current',
  "where" jsonb default null, modality text default 'image', per_group boolean default false, seconds float8 default 10
)
language plpgsql as $$
declare
  answer record;
  give_up timestamptz := clock_timestamp() + make_interval(secs => seconds);
begin
  select a.* into answer from sightline.answer_to(space, query) a;
  if answer.state is distinct from 'answered' then
    if pg_current_xact_id_if_assigned() is not null then
      raise exception 'search_text must be called outside a transaction block: the worker sees a question once it is committed'
        using errcode = 'active_sql_transaction', hint = 'Turn autocommit on.';
    end if;
    perform sightline.ask_text(space, query, seconds);
    call sightline.search_text_must_be_called_outside_a_transaction_block();
    loop
      select a.* into answer from sightline.answer_to(space, query) a;
      exit when answer.state = 'answered';
      if answer.state = 'failed' then
        raise exception 'the query could not be encoded: %', answer.error using errcode = 'data_exception';
      elsif clock_timestamp() > give_up then
        raise exception 'no worker answered within % s; is one running? select * from sightline.queue_status', seconds
          using errcode = 'object_not_in_prerequisite_state';
      end if;
      commit;  -- or the answer would be waited for in an old snapshot, which holds up vacuum
      perform pg_sleep(0.004);
    end loop;
  end if;
  if answer.note is not null then
    raise notice '%', answer.note;
  end if;
  select coalesce(jsonb_agg(to_jsonb(n) - 'ordinality' order by n.ordinality), '[]') into hits
  from sightline.nearest(space, answer.vec, k, collection, "where", modality, per_group) with ordinality n;
end $$;

-- For the leading worker: questions that nobody works on. `queue` is of the ledger.
create function sightline.take_questions(most int) returns table (question_id bigint, space text, queue text, words text, seconds float8)
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with open_ones as (
    select q.question_id from sightline.question q
    where q.state = 'asked' and q.deadline > clock_timestamp() and (q.taken_at is null or q.taken_at < clock_timestamp() - interval '6 seconds')
    order by q.question_id limit most for update skip locked
  )
  update sightline.question q set taken_at = clock_timestamp()
  from open_ones o, sightline.space s
  where q.question_id = o.question_id and s.space_id = q.space_id
  returning q.question_id, s.name, 'encode' || coalesce('.' || s.pool, ''), q.text, extract(epoch from q.deadline - clock_timestamp())
$$;

-- Keep the newest answers, and forget questions that nobody waits for.
create function sightline.forget_questions(keep int) returns bigint
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with forgotten as (
    delete from sightline.question q
    where q.state = 'asked' and q.deadline < clock_timestamp() - interval '1 minute'
       or q.state = 'failed' and q.answered_at < clock_timestamp() - interval '1 minute'
       or q.state <> 'asked' and q.answered_at <= (select o.answered_at from sightline.question o where o.state <> 'asked' order by o.answered_at desc offset keep limit 1)
    returning 1
  )
  select count(*) from forgotten
$$;

create function sightline.answer_question(question_id bigint, numbers real[], note text) returns void
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  update sightline.question q set state = 'answered', vec = numbers::halfvec, note = answer_question.note, error = null, answered_at = clock_timestamp()
  where q.question_id = answer_question.question_id
$$;

create function sightline.fail_question(question_id bigint, error text) returns void
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  update sightline.question q set state = 'failed', vec = null, error = fail_question.error, answered_at = clock_timestamp()
  where q.question_id = fail_question.question_id and q.state = 'asked'
$$;

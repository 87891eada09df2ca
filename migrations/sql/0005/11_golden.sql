-- Golden vectors: what the vectors of a space must look like, whichever worker computes them.

-- What fixed inputs look like in a space: stored by the first worker that serves it, and what all later ones must agree with. Where it was
-- the first that computed wrongly, the owner deletes its rows.
create table sightline.golden (
  space_id  smallint not null references sightline.space on delete cascade,
  modality  text not null check (modality in ('image', 'text')),
  inputs    bytea not null check (length(inputs) = 32),           -- sha256 of the inputs: another version of sightline may have others
  vectors   real[] not null check (array_ndims(vectors) = 2),     -- of length 1, one for each input
  dtype     text not null,                                        -- number format of the model that computed them
  maker     jsonb not null check (jsonb_typeof(maker) = 'object'),  -- host, device and libraries of the worker
  stored_at timestamptz not null default clock_timestamp(),
  primary key (space_id, modality, inputs)
);

-- Store golden vectors unless there are some already, and return those that are there. A worker can neither change nor delete them.
create function sightline.keep_golden(space_id smallint, modality text, inputs bytea, vectors real[], dtype text, maker jsonb)
returns sightline.golden
language plpgsql security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  kept sightline.golden;
begin
  insert into sightline.golden (space_id, modality, inputs, vectors, dtype, maker)
  values (keep_golden.space_id, keep_golden.modality, keep_golden.inputs, keep_golden.vectors, keep_golden.dtype, keep_golden.maker)
  on conflict do nothing;
  select g.* into kept from sightline.golden g
  where g.space_id = keep_golden.space_id and g.modality = keep_golden.modality and g.inputs = keep_golden.inputs;
  return kept;
end $$;

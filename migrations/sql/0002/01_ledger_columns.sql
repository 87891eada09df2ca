-- A retry is a new job that says which one it repeats.
alter table sightline.job add column retry_of bigint references sightline.job;
create index job_retry_of on sightline.job (retry_of) where retry_of is not null;

-- The logins of the services, each with one of sightline's roles; run it after `sightline migrate`, again whenever a password changes:
--   WORKER_PASSWORD=... APP_PASSWORD=... MONITOR_PASSWORD=... sh logins.sh --dbname ...
-- `app` is for services that submit and search, `monitor` for whatever only looks: Prometheus' exporters, KEDA, dashboards.
\set ON_ERROR_STOP on
set client_min_messages = warning;
select format('create role %I login', name)
from unnest(array['sightline_worker_login', 'sightline_app_login', 'sightline_monitor_login']) name
where not exists (select from pg_roles where rolname = name) \gexec
grant sightline_worker to sightline_worker_login;
grant sightline_producer, sightline_reader to sightline_app_login;
grant sightline_reader to sightline_monitor_login;
alter role sightline_worker_login password :'worker';
alter role sightline_app_login password :'app';
alter role sightline_monitor_login password :'monitor';

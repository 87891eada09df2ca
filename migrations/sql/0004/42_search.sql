-- A search answers with k rows, ten as a rule. Planned as the thousand that functions are taken for, a join with `item` read that whole table:
-- 8 of 12 ms with 20,000 items.
do $$
declare
  search regprocedure;
begin
  for search in
    select p.oid::regprocedure from pg_proc p
    where p.pronamespace = 'sightline'::regnamespace and p.proretset and p.proname in ('search_space', 'nearest', 'similar_to', 'hybrid_search')
  loop
    execute format('alter function %s rows 10', search);
  end loop;
end $$;

-- What a vector does not show of its item's content: an animation's other frames, the end of a text that was cut.

alter table sightline.embedding add column note text;
create index embedding_note on sightline.embedding (item_id) where note is not null;

-- Items that were stored with a remark.
create view sightline.noted_items with (security_invoker = true) as
select s.name as space, c.name as collection, e.item_id, i.external_id, e.modality, e.note, e.embedded_at
from sightline.embedding e
join sightline.item i on i.item_id = e.item_id
join sightline.collection c on c.collection_id = i.collection_id
join sightline.space s on s.space_id = e.space_id
where e.note is not null and e.slot = 0 and e.generation = i.generation;

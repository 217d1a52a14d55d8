-- Who announces events in its transactions may also remember, in the effect's own transaction, which ones it has dealt
-- with: it may add ids of its own groups (`{login}/{group}`) and nothing else. So no service can make another's events
-- look done, and none reads what others have seen. ON CONFLICT DO NOTHING without a target needs no right to read.
ALTER TABLE kernel.processed_event_ids ENABLE ROW LEVEL SECURITY;
CREATE POLICY remember_own ON kernel.processed_event_ids FOR INSERT TO kernel_publisher
  WITH CHECK (starts_with(consumer_group, current_user || '/'));
GRANT INSERT (consumer_group, event_id, event_type) ON kernel.processed_event_ids TO kernel_publisher;

CREATE TABLE {table} (
	id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	topic      text NOT NULL,
	key        text,  -- NULL: the event has none
	type       text,  -- full name of the payload's type, where subjects are made of it
	payload    jsonb, -- NULL: a tombstone
	headers    jsonb, -- an object of strings; NULL: none
	created_at timestamptz NOT NULL DEFAULT now(),
	-- Events of one topic and key have one slot, in which they keep their order.
	slot       integer GENERATED ALWAYS AS ((hashtextextended(coalesce(key, ''), hashtextextended(topic, 0)) & 15)::integer) STORED,
	seq        bigint -- place in the order of commits, set by the trigger
);
CREATE INDEX {order} ON {table} (slot, seq);

CREATE TABLE {refused} (
	id         bigint PRIMARY KEY,
	topic      text NOT NULL,
	key        text,
	type       text,
	payload    jsonb,
	headers    jsonb,
	created_at timestamptz NOT NULL,
	reason     text NOT NULL,
	refused_at timestamptz NOT NULL DEFAULT now()
);

-- Not owned by the table, so that no TRUNCATE starts it again: numbers that come
-- a second time would be taken for events that are published already.
CREATE SEQUENCE IF NOT EXISTS {commits};

-- Numbers the rows of a transaction while it commits. The lock is held until
-- others see the transaction, so that who sees a number sees all below it.
CREATE FUNCTION {commit}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
	PERFORM pg_advisory_xact_lock(hashtextextended('penstock outbox commit', TG_RELID::bigint));
	UPDATE {table} SET seq = nextval('{commits}') WHERE id = NEW.id;
	PERFORM pg_notify('penstock_outbox', TG_RELID::text || '/' || NEW.slot);
	RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER penstock_outbox AFTER INSERT ON {table}
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {commit}();

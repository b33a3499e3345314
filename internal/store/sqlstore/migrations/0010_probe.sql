-- What became of the requests that were sent throughout a rollout.
ALTER TABLE releases ADD COLUMN probe TEXT NOT NULL DEFAULT 'null';

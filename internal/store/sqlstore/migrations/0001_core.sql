-- Times are nanoseconds since 1970 in UTC, NULL for none. Columns that hold lists or objects are JSON.

CREATE TABLE repos (
	id             {id},
	name           {text} NOT NULL UNIQUE,
	forge          TEXT NOT NULL,
	forge_url      TEXT NOT NULL,
	clone_url      TEXT NOT NULL,
	link           TEXT NOT NULL,
	branch         TEXT NOT NULL,
	private        BOOLEAN NOT NULL,
	trusted        BOOLEAN NOT NULL,
	config         TEXT NOT NULL,
	timeout        BIGINT NOT NULL, -- nanoseconds
	created        BIGINT,
	forge_token    {bytes},
	webhook_secret {bytes},
	last_run       BIGINT NOT NULL DEFAULT 0 -- the number of the newest run
);

CREATE TABLE runs (
	id       {id},
	repo_id  BIGINT NOT NULL REFERENCES repos (id) ON DELETE CASCADE,
	number   BIGINT NOT NULL,
	parent   BIGINT NOT NULL,
	ref      TEXT NOT NULL,
	delivery TEXT NOT NULL,
	event    TEXT NOT NULL,
	status   TEXT NOT NULL,
	done     BOOLEAN NOT NULL, -- follows from status, for the index
	message  TEXT NOT NULL,
	warnings TEXT NOT NULL,
	created  BIGINT,
	started  BIGINT,
	finished BIGINT,
	plan     TEXT,
	UNIQUE (repo_id, number)
);
CREATE INDEX runs_by_repo ON runs (repo_id, id);
CREATE UNIQUE INDEX runs_by_delivery ON runs (repo_id, delivery, ref) WHERE delivery <> '';
CREATE INDEX runs_unfinished ON runs (id) WHERE done = FALSE;

CREATE TABLE jobs (
	id          {id},
	run_id      BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
	number      BIGINT NOT NULL,
	name        TEXT NOT NULL,
	needs       TEXT NOT NULL,
	status      TEXT NOT NULL,
	message     TEXT NOT NULL,
	runner      TEXT NOT NULL,
	started     BIGINT,
	finished    BIGINT,
	cancel      BOOLEAN NOT NULL,
	lease_hash  {bytes},
	lease_until BIGINT,
	lease_seq   BIGINT NOT NULL,
	wants       {text} NOT NULL, -- what it asks of its runner; equal wishes are equal texts
	UNIQUE (run_id, number)
);
CREATE INDEX jobs_pending ON jobs (wants, id) WHERE status = 'pending';
CREATE INDEX jobs_by_lease ON jobs (lease_hash) WHERE status = 'running';
CREATE INDEX jobs_by_lease_end ON jobs (lease_until) WHERE status = 'running';

CREATE TABLE steps (
	job_id    BIGINT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
	number    BIGINT NOT NULL,
	name      TEXT NOT NULL,
	kind      TEXT NOT NULL,
	image     TEXT NOT NULL,
	needs     TEXT NOT NULL,
	detach    BOOLEAN NOT NULL,
	status    TEXT NOT NULL,
	exit_code BIGINT NOT NULL,
	message   TEXT NOT NULL,
	started   BIGINT,
	finished  BIGINT,
	PRIMARY KEY (job_id, number)
);

CREATE TABLE images (
	run_id BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
	number BIGINT NOT NULL, -- counts from 1 within the run
	ref    TEXT NOT NULL,
	digest TEXT NOT NULL,
	PRIMARY KEY (run_id, number)
);

CREATE TABLE secrets (
	repo_id       BIGINT NOT NULL REFERENCES repos (id) ON DELETE CASCADE,
	folded        {text} NOT NULL, -- the name in lower case
	name          TEXT NOT NULL,
	sealed        {bytes} NOT NULL,
	pull_requests BOOLEAN NOT NULL,
	updated       BIGINT,
	PRIMARY KEY (repo_id, folded)
);

CREATE TABLE tokens (
	id      {id},
	name    TEXT NOT NULL,
	hash    {bytes} NOT NULL UNIQUE,
	scopes  TEXT NOT NULL,
	expires BIGINT,
	created BIGINT
);

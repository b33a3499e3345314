-- Where repos deploy to, by which rules, and what came to the gates of the environments.

CREATE TABLE environments (
	id         {id},
	repo_id    BIGINT NOT NULL REFERENCES repos (id) ON DELETE CASCADE,
	name       {text} NOT NULL,
	position   BIGINT NOT NULL,
	rules      TEXT NOT NULL, -- a ci.Environment
	kubeconfig {bytes},
	UNIQUE (repo_id, name)
);

CREATE TABLE gates (
	id          {id},
	run_id      BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
	job         BIGINT NOT NULL,
	step        BIGINT NOT NULL,
	environment {text} NOT NULL,
	state       TEXT NOT NULL,
	reason      TEXT NOT NULL,
	since       BIGINT,
	ended       BIGINT,
	votes       TEXT NOT NULL,
	UNIQUE (run_id, job, step)
);
CREATE INDEX gates_waiting ON gates (environment, run_id) WHERE state = 'waiting';

CREATE TABLE reviews (
	id          {id},
	repo_id     BIGINT NOT NULL REFERENCES repos (id) ON DELETE CASCADE,
	name        {text} NOT NULL,
	pattern     TEXT NOT NULL,
	branch      TEXT NOT NULL,
	namespace   TEXT NOT NULL,
	url         TEXT NOT NULL,
	run         BIGINT NOT NULL,
	created     BIGINT,
	updated     BIGINT,
	ends        BIGINT,
	teardown    BIGINT NOT NULL,
	UNIQUE (repo_id, name)
);

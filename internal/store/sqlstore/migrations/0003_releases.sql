-- What was deployed where. The rendered manifests are in the cluster.

CREATE TABLE releases (
	id          {id},
	repo_id     BIGINT NOT NULL REFERENCES repos (id) ON DELETE CASCADE,
	environment {text} NOT NULL,
	namespace   {text} NOT NULL,
	number      BIGINT NOT NULL,
	run         BIGINT NOT NULL,
	step        TEXT NOT NULL,
	commit_hash TEXT NOT NULL,
	made_by     TEXT NOT NULL,
	link        TEXT NOT NULL,
	of_number   BIGINT NOT NULL,
	started     BIGINT NOT NULL,
	finished    BIGINT,
	status      TEXT NOT NULL,
	message     TEXT NOT NULL,
	restored    BIGINT NOT NULL,
	images      TEXT NOT NULL,
	digest      TEXT NOT NULL,
	-- Numbers count within an environment of one cluster; two clusters differ in the time.
	UNIQUE (repo_id, environment, namespace, number, started)
);

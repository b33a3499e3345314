-- What is needed to show a release when nothing else of its run is left.

ALTER TABLE releases ADD COLUMN author TEXT NOT NULL DEFAULT '';
ALTER TABLE releases ADD COLUMN title TEXT NOT NULL DEFAULT '';
CREATE INDEX releases_by_start ON releases (started);

-- The rendered manifests, compressed and sealed: they may hold secrets.
CREATE TABLE release_manifests (
	release_id BIGINT PRIMARY KEY REFERENCES releases (id) ON DELETE CASCADE,
	sealed     {bytes} NOT NULL
);

-- What deployments would change, found out without making them.
CREATE TABLE previews (
	run_id  BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
	job     BIGINT NOT NULL,
	step    BIGINT NOT NULL,
	preview TEXT NOT NULL,
	PRIMARY KEY (run_id, job, step)
);

CREATE INDEX images_by_digest ON images (digest);
CREATE INDEX images_by_ref ON images (ref);

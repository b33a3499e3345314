-- What the registry fetched from other registries by itself, and may forget: tags, and manifests and blobs by their
-- digests. Rows of tags, manifests and blobs that have none here were pushed.
CREATE TABLE registry_cached (
	repository_id BIGINT NOT NULL REFERENCES registry_repositories (id) ON DELETE CASCADE,
	reference     {text} NOT NULL, -- a tag or a digest
	digest        TEXT NOT NULL,   -- where the tag was put, or the reference
	size          BIGINT NOT NULL, -- of a tag 0
	checked       BIGINT,          -- when the other registry was last asked
	used          BIGINT NOT NULL,
	PRIMARY KEY (repository_id, reference)
);
CREATE INDEX registry_cached_by_use ON registry_cached (used);

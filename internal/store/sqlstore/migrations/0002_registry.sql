-- The image registry. Repositories here are names of images, and not rows of repos.

CREATE TABLE registry_repositories (
	id   {id},
	name {text} NOT NULL UNIQUE
);

-- The blobs on disk, each once.
CREATE TABLE registry_blobs (
	digest TEXT PRIMARY KEY,
	size   BIGINT NOT NULL,
	linked BIGINT NOT NULL -- when a repository last got it
);

-- Which repositories have them.
CREATE TABLE registry_links (
	repository_id BIGINT NOT NULL REFERENCES registry_repositories (id) ON DELETE CASCADE,
	digest        TEXT NOT NULL REFERENCES registry_blobs (digest),
	PRIMARY KEY (repository_id, digest)
);
CREATE INDEX registry_links_by_digest ON registry_links (digest);

CREATE TABLE registry_manifests (
	id            {id},
	repository_id BIGINT NOT NULL REFERENCES registry_repositories (id) ON DELETE CASCADE,
	digest        {text} NOT NULL,
	media_type    TEXT NOT NULL,
	artifact_type TEXT NOT NULL,
	subject       TEXT NOT NULL,
	annotations   TEXT, -- an object
	content       {bytes} NOT NULL,
	size          BIGINT NOT NULL,
	created       BIGINT,
	created_by    TEXT NOT NULL,
	UNIQUE (repository_id, digest)
);
CREATE INDEX registry_manifests_by_subject ON registry_manifests (repository_id, subject, digest) WHERE subject <> '';

-- What a manifest needs: blobs, or manifests of its repository. A blob's references must be links; a manifest's may be
-- deleted from under an index.
CREATE TABLE registry_references (
	manifest_id   BIGINT NOT NULL REFERENCES registry_manifests (id) ON DELETE CASCADE,
	repository_id BIGINT NOT NULL,
	digest        TEXT NOT NULL,
	is_manifest   BOOLEAN NOT NULL,
	PRIMARY KEY (manifest_id, is_manifest, digest)
);
CREATE INDEX registry_references_by_digest ON registry_references (repository_id, digest);

CREATE TABLE registry_tags (
	repository_id BIGINT NOT NULL REFERENCES registry_repositories (id) ON DELETE CASCADE,
	name          {text} NOT NULL,
	manifest_id   BIGINT NOT NULL REFERENCES registry_manifests (id),
	updated       BIGINT,
	updated_by    TEXT NOT NULL,
	PRIMARY KEY (repository_id, name)
);
CREATE INDEX registry_tags_by_manifest ON registry_tags (manifest_id);

-- Where tags pointed; outlives tags and manifests.
CREATE TABLE registry_tag_history (
	id            {id},
	repository_id BIGINT NOT NULL REFERENCES registry_repositories (id) ON DELETE CASCADE,
	name          {text} NOT NULL,
	digest        TEXT NOT NULL, -- empty: deleted
	at            BIGINT,
	changed_by    TEXT NOT NULL
);
CREATE INDEX registry_tag_history_by_name ON registry_tag_history (repository_id, name, id);

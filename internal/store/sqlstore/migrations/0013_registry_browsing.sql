-- Pages show parts of repositories, the newest first.
CREATE INDEX registry_tags_by_age ON registry_tags (repository_id, updated DESC, name);
CREATE INDEX registry_manifests_by_use ON registry_manifests (repository_id, used, digest) WHERE deleted IS NULL;
CREATE INDEX registry_manifests_by_deletion ON registry_manifests (repository_id, deleted) WHERE deleted IS NOT NULL;

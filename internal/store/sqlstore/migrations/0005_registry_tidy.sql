-- What the registry needs to tidy up after itself.

-- A link is a lease as well: until some time after it was made or asked for, nobody takes the blob away.
ALTER TABLE registry_links ADD COLUMN linked BIGINT NOT NULL DEFAULT 0;
UPDATE registry_links SET linked = (SELECT b.linked FROM registry_blobs b WHERE b.digest = registry_links.digest);

-- When a manifest was last pushed, or lost a tag.
ALTER TABLE registry_manifests ADD COLUMN used BIGINT NOT NULL DEFAULT 0;
UPDATE registry_manifests SET used = coalesce(created, 0);

-- A deleted manifest stays for a while, with its references, so that it can be restored.
ALTER TABLE registry_manifests ADD COLUMN deleted BIGINT;
CREATE INDEX registry_manifests_by_deleted ON registry_manifests (deleted) WHERE deleted IS NOT NULL;

-- What is kept and what goes, as YAML; the empty name is for all repositories.
CREATE TABLE registry_policies (
	repository {text} PRIMARY KEY,
	policy     TEXT NOT NULL,
	updated    BIGINT,
	updated_by TEXT NOT NULL
);

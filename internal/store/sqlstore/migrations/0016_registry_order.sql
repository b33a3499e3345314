-- Digests that are compared have one order: PostgreSQL takes no index for a column of another one, and read all references
-- of a repository for each image that went.
{postgres} ALTER TABLE registry_blobs ALTER COLUMN digest TYPE {text};
{postgres} ALTER TABLE registry_links ALTER COLUMN digest TYPE {text};
{postgres} ALTER TABLE registry_manifests ALTER COLUMN subject TYPE {text};
{postgres} ALTER TABLE registry_references ALTER COLUMN digest TYPE {text};
{postgres} ALTER TABLE registry_tag_history ALTER COLUMN digest TYPE {text};
{postgres} ALTER TABLE registry_cached ALTER COLUMN digest TYPE {text};

-- Of tags that were deleted long ago, only so many are remembered.
CREATE INDEX registry_tag_history_by_deletion ON registry_tag_history (repository_id, id) WHERE digest = '';

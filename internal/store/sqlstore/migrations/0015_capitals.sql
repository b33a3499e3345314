-- Names of repos have capitals, those of images do not. So two repos whose names differ only by case would have the same images;
-- the name of this index is what people read if there are such.
CREATE UNIQUE INDEX repos_differ_by_more_than_case ON repos (lower(name));

-- What was set for a name with capitals held for no image; now it holds. Where both are there, the lower case comes last, and stays.
DELETE FROM registry_policies WHERE EXISTS (SELECT 1 FROM registry_policies other
	WHERE lower(other.repository) = lower(registry_policies.repository) AND other.repository > registry_policies.repository);
UPDATE registry_policies SET repository = lower(repository) WHERE repository <> lower(repository);
DELETE FROM registry_file_policies WHERE EXISTS (SELECT 1 FROM registry_file_policies other
	WHERE lower(other.repository) = lower(registry_file_policies.repository) AND other.repository > registry_file_policies.repository);
UPDATE registry_file_policies SET repository = lower(repository) WHERE repository <> lower(repository);
DELETE FROM registry_quotas WHERE EXISTS (SELECT 1 FROM registry_quotas other
	WHERE lower(other.repository) = lower(registry_quotas.repository) AND other.repository > registry_quotas.repository);
UPDATE registry_quotas SET repository = lower(repository) WHERE repository <> lower(repository);
DELETE FROM registry_quota_use;

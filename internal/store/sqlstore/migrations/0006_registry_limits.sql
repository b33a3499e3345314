-- A repository may have two policies: one that somebody set, and one from a file in the repo's default branch.
CREATE TABLE registry_file_policies (
	repository {text} PRIMARY KEY,
	policy     TEXT NOT NULL, -- empty: the branch has no such file any more
	updated    BIGINT,
	updated_by TEXT NOT NULL,
	commit_id  TEXT NOT NULL,
	run_id     BIGINT NOT NULL -- of the run that brought it: an older one does not take its place
);

-- How many bytes a repository may have with all below it; the empty name is for each repo that has none of its own.
CREATE TABLE registry_quotas (
	repository {text} PRIMARY KEY,
	bytes      BIGINT NOT NULL
);

-- At least what a repository has with all below it, so that not every push has to count. Only pushes that a quota held for
-- were added: without a row nothing is known.
CREATE TABLE registry_quota_use (
	repository {text} PRIMARY KEY,
	bytes      BIGINT NOT NULL
);

-- How environments differ from what was deployed to them, as JSON. It is found out again when it is lost. A repo is named,
-- not referred to: clusters know repos that this server does not.

CREATE TABLE drifts (
	cluster     {text} NOT NULL,
	namespace   {text} NOT NULL,
	environment {text} NOT NULL,
	repo        {text} NOT NULL,
	drift       TEXT NOT NULL,
	PRIMARY KEY (cluster, namespace, environment, repo)
);

-- The newest picture of the deployment of each step.

CREATE TABLE rollouts (
	job_id  BIGINT NOT NULL,
	step    BIGINT NOT NULL,
	picture TEXT NOT NULL,
	PRIMARY KEY (job_id, step),
	FOREIGN KEY (job_id, step) REFERENCES steps (job_id, number) ON DELETE CASCADE
);

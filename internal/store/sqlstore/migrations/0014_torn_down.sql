-- Releases of a review environment from before it was torn down: nobody goes back to them.
ALTER TABLE releases ADD COLUMN torn_down BOOLEAN NOT NULL DEFAULT FALSE;

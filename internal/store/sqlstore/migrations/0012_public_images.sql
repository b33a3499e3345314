-- Whether everybody may pull a repo's images.
ALTER TABLE repos ADD COLUMN public_images BOOLEAN NOT NULL DEFAULT FALSE;

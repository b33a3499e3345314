package sqlstore

import (
	"context"
	"time"

	"slipway/internal/ci"
	"slipway/internal/store"
)

// PutRepo implements [store.Repos].
func (db *DB) PutRepo(ctx context.Context, repo *ci.Repo) error {
	return db.tx(ctx, func(t *tx) error {
		err := t.get(ctx, `
			INSERT INTO repos (name, forge, forge_url, clone_url, link, branch, private, trusted, config, timeout,
				created, forge_token, webhook_secret, public_images)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET forge = excluded.forge, forge_url = excluded.forge_url,
				clone_url = excluded.clone_url, link = excluded.link, branch = excluded.branch,
				private = excluded.private, trusted = excluded.trusted, config = excluded.config,
				timeout = excluded.timeout, forge_token = excluded.forge_token, webhook_secret = excluded.webhook_secret,
				public_images = excluded.public_images
			RETURNING id, created`,
			[]any{
				repo.Name, repo.Forge, repo.ForgeURL, repo.CloneURL, repo.Link, repo.Branch, repo.Private, repo.Trusted,
				repo.Config, int64(repo.Timeout), instant(repo.Created), blob(repo.ForgeToken), blob(repo.WebhookSecret),
				repo.PublicImages,
			},
			&repo.ID, (*instant)(&repo.Created))
		if db.dialect.duplicate(err) { // of another name in lower case
			return store.ErrExists
		}
		return err
	})
}

const selectRepo = `
	SELECT id, name, forge, forge_url, clone_url, link, branch, private, trusted, config, timeout, created, forge_token,
		webhook_secret, public_images
	FROM repos `

func scanRepo(row scanner) (repo ci.Repo, err error) {
	var timeout int64
	err = row.Scan(&repo.ID, &repo.Name, &repo.Forge, &repo.ForgeURL, &repo.CloneURL, &repo.Link, &repo.Branch,
		&repo.Private, &repo.Trusted, &repo.Config, &timeout, (*instant)(&repo.Created), &repo.ForgeToken,
		&repo.WebhookSecret, &repo.PublicImages)
	repo.Timeout = time.Duration(timeout)
	return repo, err
}

// FindRepo implements [store.Repos].
func (db *DB) FindRepo(ctx context.Context, name string) (repo ci.Repo, err error) {
	err = db.read(ctx, func(t *tx) error {
		repo, err = one(ctx, t, scanRepo, selectRepo+`WHERE name = ?`, name)
		return err
	})
	return repo, err
}

// FindImageOwner implements [store.Repos].
func (db *DB) FindImageOwner(ctx context.Context, images string) (repo ci.Repo, err error) {
	err = db.read(ctx, func(t *tx) error {
		repo, err = one(ctx, t, scanRepo, selectRepo+`WHERE lower(name) = ?`, ci.ImageOwner(images))
		return err
	})
	return repo, err
}

// ListRepos implements [store.Repos].
func (db *DB) ListRepos(ctx context.Context) (repos []ci.Repo, err error) {
	err = db.read(ctx, func(t *tx) error {
		repos, err = list(ctx, t, scanRepo, selectRepo+`ORDER BY name`)
		return err
	})
	return repos, err
}

// DeleteRepo implements [store.Repos].
func (db *DB) DeleteRepo(ctx context.Context, name string) error {
	return db.tx(ctx, func(t *tx) error {
		// Its images stay, but not what a file of it said of them.
		if _, err := t.exec(ctx, `DELETE FROM registry_file_policies WHERE repository = ?`, ci.ImageName(name)); err != nil {
			return err
		}
		return t.must(ctx, `DELETE FROM repos WHERE name = ?`, name)
	})
}

package sqlstore

import (
	"context"

	"slipway/internal/ci"
	"slipway/internal/store"
)

// PutToken implements [store.Tokens].
func (db *DB) PutToken(ctx context.Context, token *ci.Token) error {
	err := db.tx(ctx, func(t *tx) error {
		return t.get(ctx, `
			INSERT INTO tokens (name, hash, scopes, expires, created) VALUES (?, ?, ?, ?, ?) RETURNING id`,
			[]any{token.Name, token.Hash, object{token.Scopes}, instant(token.Expires), instant(token.Created)},
			&token.ID)
	})
	if db.dialect.duplicate(err) {
		return store.ErrExists
	}
	return err
}

const selectToken = `SELECT id, name, hash, scopes, expires, created FROM tokens `

func scanToken(row scanner) (token ci.Token, err error) {
	err = row.Scan(&token.ID, &token.Name, &token.Hash, object{&token.Scopes}, (*instant)(&token.Expires),
		(*instant)(&token.Created))
	return token, err
}

// FindToken implements [store.Tokens].
func (db *DB) FindToken(ctx context.Context, hash []byte) (token ci.Token, err error) {
	err = db.read(ctx, func(t *tx) error {
		token, err = one(ctx, t, scanToken, selectToken+`WHERE hash = ?`, hash)
		return err
	})
	return token, err
}

// ListTokens implements [store.Tokens].
func (db *DB) ListTokens(ctx context.Context) (tokens []ci.Token, err error) {
	err = db.read(ctx, func(t *tx) error {
		tokens, err = list(ctx, t, scanToken, selectToken+`ORDER BY id`)
		return err
	})
	return tokens, err
}

// DeleteToken implements [store.Tokens].
func (db *DB) DeleteToken(ctx context.Context, id int64) error {
	return db.tx(ctx, func(t *tx) error {
		return t.must(ctx, `DELETE FROM tokens WHERE id = ?`, id)
	})
}

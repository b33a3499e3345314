package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/store"
)

// NewToken is the body that makes a token.
type NewToken struct {
	Name    string    `json:"name" minLength:"1" maxLength:"100"`
	Scopes  []string  `json:"scopes" minItems:"1" doc:"admin, repo:OWNER/NAME, pull, pull:OWNER/NAME, runner or metrics"`
	Expires time.Time `json:"expires,omitzero" doc:"when it stops to be good; absent means never"`
}

// MadeToken is a token with its text, which is shown this once.
type MadeToken struct {
	ci.Token
	Text string `json:"text"`
}

func (s *server) registerTokens(api huma.API) {
	add(s, api, "list-tokens", http.MethodGet, "/api/tokens", "List tokens, without their texts", func(ctx context.Context, _ *struct{}) ([]ci.Token, error) {
		if err := s.admin(ctx); err != nil {
			return nil, err
		}
		return s.Store.ListTokens(ctx)
	})
	add(s, api, "create-token", http.MethodPost, "/api/tokens", "Make a token", func(ctx context.Context, in *struct{ Body NewToken }) (MadeToken, error) {
		if err := s.admin(ctx); err != nil {
			return MadeToken{}, err
		}
		if expires := in.Body.Expires; !expires.IsZero() && expires.Before(time.Now()) {
			return MadeToken{}, fault.New(fault.Invalid, "the token would have expired already, on %s", expires.Format(time.DateTime))
		}
		text, token, err := s.Auth.Create(ctx, in.Body.Name, in.Body.Scopes, in.Body.Expires)
		return MadeToken{token, text}, err
	})
	add(s, api, "delete-token", http.MethodDelete, "/api/tokens/{id}", "Delete a token; it stops to be good at once", func(ctx context.Context, in *struct {
		ID int64 `path:"id"`
	},
	) (Empty, error) {
		if err := s.admin(ctx); err != nil {
			return Empty{}, err
		}
		err := s.Store.DeleteToken(ctx, in.ID)
		if errors.Is(err, store.ErrNotFound) {
			err = fault.New(fault.NotFound, "there is no token %d; slipway token list shows those that there are", in.ID)
		}
		return Empty{}, err
	})
}

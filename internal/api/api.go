// Package api is the REST API: what the command line and other programs ask of a server. It is described by OpenAPI 3.1
// at /api/openapi.json, made from the types here.
//
// [Register] mounts it. Each operation checks who asks, calls package flow or the store, and answers in JSON; logs are
// plain text, which can be followed. Errors are RFC 9457 problems whose detail is one sentence for people.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"slipway/internal/auth"
	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/flow"
	"slipway/internal/retention"
	"slipway/internal/store"
)

// Options say what the API speaks for.
type Options struct {
	Flow    *flow.Flow
	Store   store.Store
	Auth    *auth.Authority
	Images  *retention.Cleaner
	Log     *slog.Logger
	Version string
}

// server carries the operations.
type server struct{ Options }

// Register mounts the API below /api/ on mux.
func Register(mux *http.ServeMux, opts Options) huma.API {
	config := huma.DefaultConfig("Slipway", opts.Version)
	config.OpenAPIPath = "/api/openapi"
	config.DocsPath = "" // the pages that huma offers load scripts of strangers
	config.SchemasPath = "/api/schemas"
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}}
	config.Security = []map[string][]string{{"token": {}}}
	config.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	api := humago.New(mux, config)
	s := &server{opts}
	api.UseMiddleware(s.identify(api))
	s.registerRepos(api)
	s.registerRuns(api)
	s.registerSecrets(api)
	s.registerEnvironments(api)
	s.registerTokens(api)
	s.registerImages(api)
	s.registerReleases(api)
	s.registerDrift(api)
	return api
}

// schemaName keeps a job of a plan apart from a job of a run.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if strings.HasSuffix(t.PkgPath(), "/plan") && t.Name() != "Plan" {
		return "Plan" + name
	}
	return name
}

type principalKey struct{}

// identify finds out who asks. A request without a token is nobody's, and may see what is public.
func (s *server) identify(api huma.API) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		token, ok := strings.CutPrefix(ctx.Header("Authorization"), "Bearer ")
		if !ok {
			next(ctx)
			return
		}
		who, err := s.Auth.Find(ctx.Context(), strings.TrimSpace(token))
		if err != nil {
			problem := s.problem(err)
			_ = huma.WriteErr(api, ctx, problem.GetStatus(), problem.Error()) // the connection is gone if this fails
			return
		}
		next(huma.WithValue(ctx, principalKey{}, who))
	}
}

func principal(ctx context.Context) auth.Principal {
	who, _ := ctx.Value(principalKey{}).(auth.Principal)
	return who
}

// problem turns an error into an answer. The inside of internal errors goes to the log only.
func (s *server) problem(err error) huma.StatusError {
	if errors.Is(err, store.ErrNotFound) {
		err = fault.New(fault.NotFound, "it does not exist")
	}
	found := fault.Of(err)
	if found.Code == fault.Internal {
		s.Log.Error("api", "error", err)
	}
	return huma.NewError(found.Code.HTTPStatus(), found.Message)
}

// RepoPath names a repo in an address.
type RepoPath struct {
	Owner string `path:"owner" maxLength:"100" doc:"first half of the repo's name"`
	Name  string `path:"name" maxLength:"100" doc:"second half of the repo's name"`
}

func (p RepoPath) repo() string { return p.Owner + "/" + p.Name }

// reads returns the repo if who asks may read it. To everybody else it does not exist.
func (s *server) reads(ctx context.Context, name string) (ci.Repo, error) {
	repo, err := s.Store.FindRepo(ctx, name)
	if err == nil && repo.Private && !principal(ctx).Reads(name) {
		err = store.ErrNotFound
	}
	if errors.Is(err, store.ErrNotFound) {
		return ci.Repo{}, fault.New(fault.NotFound, "there is no repo %q, or your token does not allow to see it", name)
	}
	return repo, err
}

// manages checks that who asks may change the repo.
func (s *server) manages(ctx context.Context, name string) error {
	if _, err := s.reads(ctx, name); err != nil {
		return err
	}
	switch who := principal(ctx); {
	case who.Manages(name):
		return nil
	case who.Name == "":
		return fault.New(fault.Unauthorized, "this needs a token; give one by SLIPWAY_TOKEN or slipway login")
	default:
		return fault.New(fault.Forbidden, "the token %q does not allow to change %s; it needs the scope repo:%s or admin", who.Name, name, name)
	}
}

func (s *server) admin(ctx context.Context) error {
	switch who := principal(ctx); {
	case who.Admin():
		return nil
	case who.Name == "":
		return fault.New(fault.Unauthorized, "this needs an admin's token; the server wrote one to admin-token in its data folder")
	default:
		return fault.New(fault.Forbidden, "the token %q is no admin's", who.Name)
	}
}

// Empty is the answer of an operation that has nothing to say.
type Empty struct{}

// add registers one operation. Everything that an operation answers is in a body.
func add[In, Out any](s *server, api huma.API, id, method, path, summary string, do func(context.Context, *In) (Out, error)) {
	addSized(s, api, 1<<20, id, method, path, summary, do)
}

// addSized is add of an operation whose body has at most the given number of bytes.
func addSized[In, Out any](s *server, api huma.API, most int64, id, method, path, summary string, do func(context.Context, *In) (Out, error)) {
	type answer struct{ Body Out }
	huma.Register(api, huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary, MaxBodyBytes: most,
		Errors: []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, in *In) (*answer, error) {
		out, err := do(ctx, in)
		if err != nil {
			return nil, s.problem(err)
		}
		return &answer{out}, nil
	})
}

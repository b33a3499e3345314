package gitd

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"regexp"
	"strings"

	"slipway/internal/ci"
	"slipway/internal/forge"
)

// Describe fills in the clone URL and the default branch, which the first push may have changed.
func (s *Server) Describe(_ context.Context, repo forge.Repo) (ci.Repo, error) {
	dir, err := s.find(repo.Name)
	if err != nil {
		return ci.Repo{}, err
	}
	head, err := readHead(dir)
	if err != nil {
		return ci.Repo{}, fmt.Errorf("find the default branch of %s: %w", repo.Name, err)
	}
	described := repo.Repo
	described.Forge = Kind
	described.CloneURL = s.options.URL + "/" + repo.Name + ".git"
	described.Branch = strings.TrimPrefix(head, "refs/heads/")
	return described, nil
}

// Register has nothing to do: pushes are noticed where they happen.
func (s *Server) Register(context.Context, forge.Repo, string) error { return nil }

// Hook refuses every webhook, because the own endpoint sends none.
func (s *Server) Hook(context.Context, forge.Repo, http.Header, []byte) (ci.Event, string, error) {
	return ci.Event{}, "", fmt.Errorf("a repo on Slipway's own git endpoint takes no webhooks: %w", forge.ErrDenied)
}

// hashPattern is a full hash, SHA-1 or SHA-256.
var hashPattern = regexp.MustCompile(`^(?:[0-9a-f]{40}|[0-9a-f]{64})$`)

// File reads a file from the repository. It follows symbolic links that stay in the commit.
func (s *Server) File(ctx context.Context, repo forge.Repo, commit, path string) ([]byte, error) {
	dir, err := s.find(repo.Name)
	if err != nil {
		return nil, err
	}
	if !hashPattern.MatchString(commit) {
		return nil, fmt.Errorf("%.80q is not the full hash of a commit", commit)
	}
	if !fs.ValidPath(path) || strings.ContainsAny(path, "\n\x00") {
		return nil, fmt.Errorf("%.200q is not a path inside a repo", path)
	}
	objects, err := s.objects(ctx, dir, forge.MaxFile, commit+":"+path)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s at %.10s: %w", path, repo.Name, commit, err)
	}
	switch file := objects[0]; {
	case file.kind != "blob":
		return nil, fmt.Errorf("%s has no file %s at %.10s: %w", repo.Name, path, commit, forge.ErrNotFound)
	case file.size > forge.MaxFile:
		return nil, fmt.Errorf("%s of %s at %.10s has more than %d KiB: %w", path, repo.Name, commit, forge.MaxFile>>10, forge.ErrTooLarge)
	default:
		return file.content, nil
	}
}

// Report has nowhere to write to: the run's own page is the place.
func (s *Server) Report(context.Context, forge.Repo, forge.Status) error { return nil }

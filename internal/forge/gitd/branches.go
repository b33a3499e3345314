package gitd

import (
	"context"
	"fmt"
	"strings"

	"slipway/internal/forge"
)

// OpenBranches implements [forge.Brancher].
func (s *Server) OpenBranches(ctx context.Context, repo forge.Repo) ([]string, error) {
	dir, err := s.find(repo.Name)
	if err != nil {
		return nil, err
	}
	heads := func(args ...string) ([]string, error) {
		out, err := s.output(ctx, dir, nil, append([]string{"for-each-ref", "--format=%(objectname) %(refname:lstrip=2)"}, append(args, "refs/heads/")...)...)
		if err != nil {
			return nil, fmt.Errorf("list the branches of %s: %w", repo.Name, err)
		}
		return strings.FieldsFunc(string(out), func(c rune) bool { return c == '\n' }), nil
	}
	all, err := heads()
	if err != nil {
		return nil, err
	}
	tip := ""
	for _, head := range all {
		if commit, name, _ := strings.Cut(head, " "); name == repo.Branch {
			tip = commit
		}
	}
	merged := map[string]bool{}
	if tip != "" {
		reached, err := heads("--merged=" + tip)
		if err != nil {
			return nil, err
		}
		for _, head := range reached {
			merged[head] = true
		}
	}
	open := []string{}
	for _, head := range all {
		if commit, name, _ := strings.Cut(head, " "); commit == tip || !merged[head] {
			open = append(open, name)
		}
	}
	return open, nil
}

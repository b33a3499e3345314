package gitd

import (
	"context"
	"fmt"
	"strings"
)

// Branches returns the names of a repository's branches, or [forge.ErrNotFound].
func (s *Server) Branches(ctx context.Context, name string) ([]string, error) {
	dir, err := s.find(name)
	if err != nil {
		return nil, err
	}
	out, err := s.output(ctx, dir, nil, "for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads/")
	if err != nil {
		return nil, fmt.Errorf("list the branches of %s: %w", name, err)
	}
	branches := []string{}
	for line := range strings.Lines(string(out)) {
		branches = append(branches, strings.TrimSuffix(line, "\n"))
	}
	return branches, nil
}

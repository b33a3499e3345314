package gitea

import (
	"context"

	sdk "code.gitea.io/sdk/gitea"

	"slipway/internal/forge"
)

// Bounds of what is asked about branches: of a repo with more than the first it is not known which there are; of no more than
// the second it is asked whether they were merged, and the others count as open.
const (
	maxBranches = 5000
	maxCompared = 200
)

// OpenBranches implements [forge.Brancher].
func (f *Forge) OpenBranches(ctx context.Context, repo forge.Repo) ([]string, error) {
	c, err := f.call(ctx, repo)
	if err != nil {
		return nil, err
	}
	const pageSize = 50
	var all []*sdk.Branch
	for page := 1; ; page++ {
		branches, resp, err := c.ListRepoBranches(c.owner, c.name, sdk.ListRepoBranchesOptions{ListOptions: sdk.ListOptions{Page: page, PageSize: pageSize}})
		if err != nil {
			return nil, c.failed("list the branches", "read:repository", resp, err)
		}
		all = append(all, branches...)
		if len(branches) == 0 {
			break
		}
		if len(all) > maxBranches { // a branch that is not in the list counts as deleted
			return nil, nil
		}
	}
	tip := ""
	for _, b := range all {
		if b.Name == repo.Branch && b.Commit != nil {
			tip = b.Commit.ID
		}
	}
	open, compared := []string{}, 0
	for _, b := range all {
		if tip != "" && b.Commit != nil && b.Commit.ID != tip && compared < maxCompared {
			compared++
			ahead, resp, err := c.CompareCommits(c.owner, c.name, tip, b.Commit.ID)
			if err != nil {
				return nil, c.failed("compare branches", "read:repository", resp, err)
			}
			if ahead.TotalCommits == 0 {
				continue
			}
		}
		open = append(open, b.Name)
	}
	return open, nil
}

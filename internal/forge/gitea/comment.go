package gitea

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	sdk "code.gitea.io/sdk/gitea"

	"slipway/internal/forge"
)

var _ forge.Commenter = (*Forge)(nil)

// marked is how the comments of Slipway begin. Gitea does not show it.
var marked = regexp.MustCompile(`^<!-- slipway ([a-z]+) ([0-9]{1,18}) -->\n`)

// Comment looks for the comment of the topic among those of the token's own user (whoever else writes the mark does not get
// to speak for Slipway) and rewrites it, or writes a new one.
func (f *Forge) Comment(ctx context.Context, repo forge.Repo, comment forge.Comment) error {
	const doing, scope = "comment on a pull request", "write:issue"
	mark := fmt.Sprintf("<!-- slipway %s %d -->\n", comment.Topic, comment.Run)
	if !marked.MatchString(mark) {
		return fmt.Errorf("comment on %s: %q cannot be the topic of a comment", repo.Name, comment.Topic)
	}
	if len(comment.Body) > forge.MaxComment {
		return fmt.Errorf("comment on %s: the comment has %d bytes; at most %d are allowed", repo.Name, len(comment.Body), forge.MaxComment)
	}
	c, err := f.call(ctx, repo)
	if err != nil {
		return err
	}
	me, resp, err := c.GetMyUserInfo()
	if err != nil {
		return c.failed("find out whose token it is, to "+doing, "read:user", resp, err)
	}
	all, resp, err := c.ListIssueComments(c.owner, c.name, comment.Change, sdk.ListIssueCommentOptions{})
	if err != nil {
		return c.failed(doing, scope, resp, err)
	}
	body := mark + comment.Body
	for _, earlier := range all {
		text := strings.ReplaceAll(earlier.Body, "\r\n", "\n")
		found := marked.FindStringSubmatch(text)
		if found == nil || found[1] != comment.Topic || earlier.Poster == nil || earlier.Poster.ID != me.ID {
			continue
		}
		if run, err := strconv.ParseInt(found[2], 10, 64); err != nil || run > comment.Run || text == body {
			return nil
		}
		if _, resp, err := c.EditIssueComment(c.owner, c.name, earlier.ID, sdk.EditIssueCommentOption{Body: body}); err != nil {
			return c.failed(doing, scope, resp, err)
		}
		return nil
	}
	if _, resp, err := c.CreateIssueComment(c.owner, c.name, comment.Change, sdk.CreateIssueCommentOption{Body: body}); err != nil {
		return c.failed(doing, scope, resp, err)
	}
	return nil
}

package forge

import "context"

// Commenter is a [Forge] whose pull requests can be commented on. Its methods are as those of Forge.
type Commenter interface {
	// Comment writes a comment on a pull request, in the place of the one of the same Topic that it wrote before. One that
	// a later run wrote stays as it is.
	Comment(ctx context.Context, repo Repo, comment Comment) error
}

// Comment is what Slipway says on a pull request. There is one of each topic.
type Comment struct {
	// Change is the number of the pull request.
	Change int64
	// Topic tells comments apart: letters only. People do not see it.
	Topic string
	// Run is the number of the run that speaks.
	Run int64
	// Body is Markdown, of at most [MaxComment] bytes.
	Body string
}

// MaxComment is the size of a comment that every forge takes, in bytes.
const MaxComment = 60_000

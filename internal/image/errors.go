package image

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/distribution/reference"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	solver "github.com/moby/buildkit/solver/errdefs"

	"slipway/internal/buildkit"
)

// Error says in one sentence why an image was not built or pushed. It never holds a secret of the request.
type Error struct {
	// Path and Line are the place in the Dockerfile, if it is known: else Line is 0.
	Path string
	Line int
	// Text is the sentence.
	Text string
	// Pull is set if the cause is a base image that cannot be had.
	Pull *buildkit.PullError
}

// Error implements error.
func (e *Error) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Text)
	}
	return e.Text
}

// solveError is an error of BuildKit.
type solveError struct {
	err    error
	source *sources
}

func (e *solveError) Error() string { return e.err.Error() }
func (e *solveError) Unwrap() error { return e.err }

var (
	unresolved = regexp.MustCompile(`failed to resolve source metadata for (\S+?): `)
	ranCommand = regexp.MustCompile(`process "((?:[^"\\]|\\.)*)" did not complete successfully`)
	notCopied  = regexp.MustCompile(`failed to calculate checksum of ref \S+: "/?([^"]*)": not found`)
	parseError = regexp.MustCompile(`dockerfile parse error on line \d+: `)
	pushFailed = regexp.MustCompile(`failed to (?:push|fetch oauth token|authorize)`)
)

// explain turns an error of a build into an [*Error].
func explain(err error, req *Request, hide hider) *Error {
	var s *solveError
	if !errors.As(err, &s) {
		return &Error{Text: hide.hide(err.Error())}
	}
	e := &Error{Path: s.source.path}
	for _, src := range solver.Sources(s.err) {
		if len(src.Ranges) > 0 && src.Info != nil && src.Info.Filename == s.source.name {
			e.Line = int(src.Ranges[0].Start.Line)
		}
	}
	e.Text = hide.hide(text(s, req, e))
	return e
}

func text(s *solveError, req *Request, e *Error) string {
	raw := strings.TrimPrefix(s.err.Error(), "failed to solve: ")
	var exit *gateway.ExitError
	if m := ranCommand.FindStringSubmatch(raw); m != nil && errors.As(s.err, &exit) {
		command := strings.TrimPrefix(strings.ReplaceAll(m[1], `\"`, `"`), "/bin/sh -c ")
		return fmt.Sprintf("RUN %s failed with exit code %d", shorten(command, 200), exit.ExitCode)
	}
	if m := unresolved.FindStringSubmatch(raw); m != nil {
		if named, err := reference.ParseNormalizedNamed(m[1]); err == nil {
			e.Pull = buildkit.NewPullError(reference.FamiliarString(named), s.err, req.Auths)
			return "FROM: " + e.Pull.Error()
		}
	}
	if m := notCopied.FindStringSubmatch(raw); m != nil {
		return fmt.Sprintf("%q is not in the context; check its path and .dockerignore", m[1])
	}
	if strings.HasSuffix(raw, "network.host is not allowed") {
		return "RUN --network=host is for trusted repos only"
	}
	raw = parseError.ReplaceAllString(raw, "")
	if pushFailed.MatchString(raw) && !req.DryRun {
		if refs, err := req.refs(); err == nil && len(refs) > 0 {
			return pushText(refs[0], s.err, req)
		}
	}
	return shorten(strings.Join(strings.Fields(raw), " "), 500)
}

func pushText(ref string, err error, req *Request) string {
	p := buildkit.NewPullError(ref, err, req.Auths)
	switch p.Kind {
	case buildkit.Unauthorized:
		if p.LoggedIn {
			return fmt.Sprintf("the registry %s refuses the push of %s to the login it was given; check the username, the password and what they may write", p.Host, ref)
		}
		return fmt.Sprintf("the registry %s refuses the push of %s without a login; give username and password", p.Host, ref)
	case buildkit.Unreachable:
		return fmt.Sprintf("the registry %s cannot be reached to push %s (%s); check its name and this machine's network", p.Host, ref, p.Reason())
	}
	return fmt.Sprintf("push %s: %s", ref, shorten(strings.Join(strings.Fields(err.Error()), " "), 400))
}

func shorten(s string, max int) string {
	if len(s) <= max {
		return s
	}
	return strings.ToValidUTF8(s[:max], "") + "..."
}

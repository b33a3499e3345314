package gitd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"slipway/internal/ci"
)

// maxEvents bounds the events of one push, so that pushing a mirror's thousand branches doesn't start a thousand runs.
const maxEvents = 20

// maxMessage bounds what is kept of a commit, in bytes.
const maxMessage = 64 << 10

// events returns what the moved refs are to Slipway, in the order in which they were pushed, those that were deleted last, and how
// many were too many. Deleted tags, refs other than branches and tags, and tags of something that is no commit give none.
func (s *Server) events(ctx context.Context, repo repository, id string, moved []command) (events []ci.Event, left int, err error) {
	var deleted []ci.Event
	for _, c := range moved {
		event, ok := c.event(repo, id)
		switch {
		case !ok:
		case event.Kind == ci.Delete:
			deleted = append(deleted, event)
		case len(events) == maxEvents:
			left++
		default:
			events = append(events, event)
		}
	}
	if len(events) == 0 {
		return deleted, 0, nil
	}
	revs := make([]string, len(events))
	for i, e := range events {
		revs[i] = e.After + "^{commit}" // an annotated tag's hash is that of the tag
	}
	objects, err := s.objects(ctx, repo.dir, maxMessage, revs...)
	if err != nil {
		return nil, 0, err
	}
	found := events[:0]
	for i, o := range objects {
		if o.kind == "commit" {
			events[i].After, events[i].Commit = o.hash, parseCommit(o.content)
			found = append(found, events[i])
		}
	}
	return append(found, deleted...), left, nil
}

// object is something in a repository; kind is empty if it is not there.
type object struct {
	hash, kind string
	size       int64
	content    []byte // the first bytes of it
}

// objects reads several objects by one git process, at most that many bytes of each.
func (s *Server) objects(ctx context.Context, dir string, most int64, revs ...string) ([]object, error) {
	cmd := s.git(ctx, dir, "cat-file", "--batch", "--follow-symlinks")
	cmd.Stdin = strings.NewReader(strings.Join(revs, "\n") + "\n")
	stderr := &tail{max: 4 << 10}
	cmd.Stderr = stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("git cat-file: %w", err)
	}
	objects, err := readObjects(bufio.NewReader(stdout), most, len(revs))
	if err != nil {
		_ = cmd.Cancel()
	}
	_, _ = io.Copy(io.Discard, stdout)
	if waitErr := cmd.Wait(); waitErr != nil {
		return nil, gitError("cat-file", waitErr, stderr)
	}
	return objects, err
}

// readObjects reads what cat-file --batch prints: "hash kind size", the content and a line's end, or another line if there is
// no such object.
func readObjects(r *bufio.Reader, most int64, n int) ([]object, error) {
	objects := make([]object, n)
	for i := range objects {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("git cat-file ended early: %w", err)
		}
		line = strings.TrimSuffix(line, "\n")
		words := strings.Split(line, " ")
		if len(words) == 2 && (words[0] == "symlink" || words[0] == "dangling" || words[0] == "loop" || words[0] == "notdir") {
			// A link that leads out of the repository, or nowhere: its text follows.
			if size, err := strconv.ParseInt(words[1], 10, 64); err == nil {
				if _, err := r.Discard(int(size) + 1); err != nil {
					return nil, fmt.Errorf("git cat-file ended early: %w", err)
				}
			}
			continue
		}
		if len(words) != 3 {
			continue // "... missing", "... ambiguous"
		}
		size, err := strconv.ParseInt(words[2], 10, 64)
		if err != nil || size < 0 {
			return nil, errors.New("git cat-file printed something unexpected")
		}
		o := object{hash: words[0], kind: words[1], size: size, content: make([]byte, min(size, most))}
		if _, err := io.ReadFull(r, o.content); err != nil {
			return nil, fmt.Errorf("git cat-file ended early: %w", err)
		}
		if _, err := io.CopyN(io.Discard, r, size-int64(len(o.content))+1); err != nil {
			return nil, fmt.Errorf("git cat-file ended early: %w", err)
		}
		objects[i] = o
	}
	return objects, nil
}

// parseCommit reads a commit object as git stores it: headers, an empty line, the message.
func parseCommit(content []byte) ci.Commit {
	head, message, _ := bytes.Cut(content, []byte("\n\n"))
	commit := ci.Commit{Message: text(message)}
	for line := range bytes.Lines(head) {
		if author, ok := bytes.CutPrefix(line, []byte("author ")); ok {
			commit.Author = parseSignature(text(author))
			break
		}
	}
	return commit
}

// parseSignature reads "Ada Lovelace <ada@example.com> 1700000000 +0100".
func parseSignature(s string) ci.Signature {
	name, rest, _ := strings.Cut(s, "<")
	email, when, _ := strings.Cut(rest, ">")
	signature := ci.Signature{Name: strings.TrimSpace(name), Email: strings.TrimSpace(email)}
	if words := strings.Fields(when); len(words) > 0 {
		if seconds, err := strconv.ParseInt(words[0], 10, 64); err == nil {
			at := time.Unix(seconds, 0).UTC()
			if len(words) > 1 {
				if zone, err := time.Parse("-0700", words[1]); err == nil {
					at = at.In(zone.Location())
				}
			}
			signature.Time = at
		}
	}
	return signature
}

// text makes a commit's bytes, whose encoding is anybody's guess, a string that is valid everywhere.
func text(b []byte) string {
	return strings.ReplaceAll(strings.ToValidUTF8(string(b), "\uFFFD"), "\x00", "\uFFFD")
}

// readHead returns the full name of the branch that HEAD is on.
func readHead(dir string) (string, error) {
	head, err := os.ReadFile(filepath.Join(dir, "HEAD"))
	if err != nil {
		return "", err
	}
	ref, ok := strings.CutPrefix(strings.TrimSpace(string(head)), "ref: ")
	if !ok {
		return "", errors.New("HEAD is on no branch")
	}
	return ref, nil
}

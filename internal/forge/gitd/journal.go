package gitd

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// A push is noted in the repository's folder before git gets it, and the note is removed when Options.OnPush has returned.
// So a server that is killed in between finds the note at its next start, and no push is forgotten.

// journalPrefix begins the name of a note's file.
const journalPrefix = "slipway-push-"

// entry is a note.
type entry struct {
	ID       string    `json:"id"`
	User     string    `json:"user,omitempty"`
	By       string    `json:"by,omitempty"`
	Commands []command `json:"commands"`

	path string
}

// note writes one. A push of nothing needs none: git probes with such a one whether it is let in.
func (s *Server) note(repo repository, commands []command) (*entry, error) {
	if len(commands) == 0 {
		return &entry{}, nil
	}
	id := rand.Text()
	e := &entry{ID: id, User: repo.user, By: repo.by, Commands: commands, path: filepath.Join(repo.dir, journalPrefix+id)}
	text, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	// Under a name that Recover doesn't look for until it is whole.
	if err := writeSynced(e.path+".lock", text); err != nil {
		return nil, err
	}
	if err := os.Rename(e.path+".lock", e.path); err != nil {
		return nil, err
	}
	return e, syncFolder(repo.dir)
}

// forget removes the note.
func (e *entry) forget() {
	if e.path != "" {
		_ = os.Remove(e.path) // a push that is announced twice does no harm
	}
}

// Recover calls Options.OnPush for pushes that a killed server had taken and not seen through. It is for the start of a
// server, as soon as OnPush can do its work, and returns how many pushes it found. A ref that has moved on since gives
// nothing, for its later push did. OnPush may have seen a push already; then its events have the deliveries
// that they had before.
func (s *Server) Recover(ctx context.Context) (int, error) {
	paths, err := filepath.Glob(filepath.Join(s.options.Dir, "*", "*.git", journalPrefix+"*"))
	if err != nil {
		return 0, err
	}
	for n, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return n, fmt.Errorf("recover a push: %w", err)
		}
		e := entry{path: path}
		if err := json.Unmarshal(text, &e); err != nil {
			return n, fmt.Errorf("recover the push noted in %s: %w", path, err)
		}
		dir := filepath.Dir(path)
		name, err := filepath.Rel(s.options.Dir, strings.TrimSuffix(dir, ".git"))
		if err != nil {
			return n, fmt.Errorf("recover a push: %w", err)
		}
		repo := repository{name: filepath.ToSlash(name), dir: dir, user: e.User, by: e.By}
		one, cancel := context.WithTimeout(ctx, announceTime)
		if moved := s.standing(one, repo, e.Commands); len(moved) > 0 {
			s.announce(one, repo, e.ID, moved, io.Discard)
		}
		cancel()
		e.forget()
	}
	return len(paths), nil
}

// writeSynced writes a file, and returns when it is on the disk.
func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

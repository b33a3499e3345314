package gitd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"slipway/internal/ci"
)

// announceTime bounds Options.OnPush.
const announceTime = time.Minute

// Bounds of what a push may ask for.
const (
	maxCommands = 10_000   // refs moved by one push
	maxList     = 16 << 20 // bytes of the list of them
	maxReport   = 16 << 20 // bytes of git's report about them
)

// receive answers a push. Git does the work: it takes the objects in quarantine, checks them, moves the refs. Its answer
// is a list of packets, and what it says of each ref is in there. Before the packet that ends the list, Slipway adds its
// own: the pusher's terminal is where its user looks.
func (s *Server) receive(w http.ResponseWriter, r *http.Request) {
	repo, ok := s.admit(w, r, true)
	if !ok {
		return
	}
	body, ok := content(w, r, receivePack, s.options.MaxPush+maxList)
	if !ok {
		return
	}
	push, err := readPush(body)
	if err != nil {
		refuse(w, http.StatusBadRequest, "The push could not be read: "+err.Error()+".")
		return
	}
	noCache(w)
	w.Header().Set("Content-Type", "application/x-"+receivePack+"-result")

	entry, err := s.note(repo, push.commands)
	if err != nil {
		s.options.Log.Error("push not noted", "repo", repo.name, "error", err)
		sentence := "Slipway could not take the push; its log says why."
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			sentence = "Slipway could not take the push: the disk of the server is full."
		}
		if !push.sideband {
			refuse(w, http.StatusInternalServerError, sentence)
			return
		}
		// Git shows its user no body of an error that answers the objects, only this.
		_, _ = io.Copy(io.Discard, body)
		_, _ = bandWriter{w: w, band: bandError}.Write([]byte(sentence + "\n"))
		return
	}
	defer entry.forget()

	cmd := s.git(r.Context(), repo.dir, "receive-pack", "--stateless-rpc", ".")
	body = io.MultiReader(bytes.NewReader(push.raw), body)
	s.stream(w, r, cmd, repo, body, func(out io.Writer, answer io.Reader) error {
		report, ended, err := push.relay(out, answer)
		progress := io.Discard
		if err == nil && push.sideband {
			progress = bandWriter{w: out, band: bandProgress}
		}
		// Even if the pusher is gone, what is pushed is pushed.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), announceTime)
		defer cancel()
		moved, whole := push.moved(report)
		if !whole {
			moved = s.standing(ctx, repo, push.commands)
		}
		if len(moved) > 0 {
			s.announce(ctx, repo, entry.ID, moved, progress)
			s.tend(repo.name, repo.dir)
		}
		if err == nil && ended {
			_, err = out.Write(flushPacket)
		}
		return err
	})
}

// announce makes what follows from a push happen. Nothing in it makes the push fail: the refs have moved.
func (s *Server) announce(ctx context.Context, repo repository, id string, moved []command, out io.Writer) {
	log := s.options.Log.With("repo", repo.name)
	defer func() {
		if p := recover(); p != nil {
			log.Error("push callback panicked", "panic", p, "stack", string(debug.Stack()))
			fmt.Fprintln(out, "Slipway failed to act on this push; its log says why.")
		}
	}()
	if err := s.repairHead(ctx, repo.dir, moved); err != nil {
		log.Warn("default branch not set", "error", err)
	}
	if s.options.OnPush == nil {
		return
	}
	events, left, err := s.events(ctx, repo, id, moved)
	if err != nil {
		log.Error("pushed commits not read", "error", err)
		fmt.Fprintln(out, "Slipway could not read the pushed commits; its log says why.")
		return
	}
	if left > 0 {
		fmt.Fprintf(out, "Slipway acts on the first %d branches and tags of a push, and leaves out %d.\n", maxEvents, left)
	}
	if len(events) > 0 {
		s.options.OnPush(ctx, repo.name, events, out)
	}
}

// push is what a client says at the start of a push, before the objects.
type push struct {
	commands []command
	// raw is what was read: the packets of the commands and the flush packet after them.
	raw []byte
	// sideband: the answer comes in bands, and may hold lines for the pusher's terminal.
	sideband bool
}

// command asks for a ref to move.
type command struct {
	// Before and After are hashes; all zeros for a ref that is not there.
	Before string `json:"before"`
	After  string `json:"after"`
	Ref    string `json:"ref"`
}

// deletes reports whether the command removes the ref.
func (c command) deletes() bool { return strings.Trim(c.After, "0") == "" }

// creates reports whether the command makes the ref.
func (c command) creates() bool { return strings.Trim(c.Before, "0") == "" }

// commandPattern is "before after ref". The hashes are of SHA-1 or SHA-256.
var commandPattern = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64}) ([0-9a-f]{40}|[0-9a-f]{64}) (refs/[^\x00-\x20\x7f]+)$`)

// maxRef is how long the name of a ref may be. In the pattern, it would take 700 kB of memory.
const maxRef = 1000

// readPush reads the list of commands that begins a push, and nothing after it. See gitprotocol-pack(5),
// "Reference Update Request".
func readPush(r io.Reader) (push, error) {
	var p push
	buf := make([]byte, maxPacket)
	for {
		packet, err := readPacket(r, buf)
		if errors.Is(err, io.EOF) {
			err = errPacket
		}
		if err != nil {
			return push{}, err
		}
		if p.raw = append(p.raw, packet...); len(p.raw) > maxList {
			return push{}, errors.New("its list of refs is too long")
		}
		if isFlush(packet) {
			return p, nil
		}
		line, capabilities, first := strings.Cut(strings.TrimSuffix(string(packet[4:]), "\n"), "\x00")
		if first {
			words := strings.Fields(capabilities)
			p.sideband = slices.Contains(words, "side-band-64k")
			if !slices.Contains(words, "report-status") && !slices.Contains(words, "report-status-v2") {
				return push{}, errors.New("the client does not ask for a report; use a newer git")
			}
		}
		if strings.HasPrefix(line, "shallow ") {
			continue
		}
		m := commandPattern.FindStringSubmatch(line)
		if m == nil || len(m[3]) > maxRef {
			return push{}, fmt.Errorf("%.100q is not understood", line)
		}
		if len(p.commands) == maxCommands {
			return push{}, fmt.Errorf("it moves more than %d refs", maxCommands)
		}
		p.commands = append(p.commands, command{Before: m[1], After: m[2], Ref: m[3]})
	}
}

// relay copies git's answer to out, but for the flush packet at the end of a side-band answer; ended says that it was there.
// It reads answer to its end even if out fails, because the report is needed then as well.
func (p push) relay(out io.Writer, answer io.Reader) (report []byte, ended bool, err error) {
	in := bufio.NewReaderSize(answer, maxPacket)
	buf := make([]byte, maxPacket)
	for {
		packet, readErr := readPacket(in, buf)
		if errors.Is(readErr, io.EOF) {
			return report, ended, err
		}
		if readErr != nil {
			return report, false, errors.Join(err, readErr)
		}
		if p.sideband && isFlush(packet) {
			ended = true
			continue
		}
		switch {
		case len(report) > maxReport:
		case !p.sideband:
			report = append(report, packet...)
		case len(packet) > 5 && packet[4] == bandData:
			report = append(report, packet[5:]...)
		}
		if err == nil {
			_, err = out.Write(packet)
		}
	}
}

// moved returns the commands that git's report says were carried out, and whether the report is whole. The report is
// what counts: git compares the old value and moves the ref under one lock, and by now another push may have moved it again.
func (p push) moved(report []byte) (moved []command, whole bool) {
	done := map[string]bool{}
	in, buf := bytes.NewReader(report), make([]byte, maxPacket)
	for {
		packet, err := readPacket(in, buf)
		if err != nil {
			return nil, false
		}
		if isFlush(packet) {
			break
		}
		if ref, ok := strings.CutPrefix(strings.TrimSuffix(string(packet[4:]), "\n"), "ok "); ok {
			done[ref] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(p.commands), func(c command) bool { return !done[c.Ref] || c.Before == c.After }), true
}

// standing returns the commands whose refs are where they were to go. It is how to find out what a push has done when
// git could not say: it was stopped in the middle.
func (s *Server) standing(ctx context.Context, repo repository, commands []command) []command {
	if len(commands) == 0 {
		return nil
	}
	refs := make([]string, len(commands))
	for i, c := range commands {
		refs[i] = c.Ref
	}
	objects, err := s.objects(ctx, repo.dir, 0, refs...)
	if err != nil {
		s.options.Log.Error("refs of an interrupted push not read", "repo", repo.name, "error", err)
		return nil
	}
	var standing []command
	for i, c := range commands {
		if (objects[i].hash == c.After || c.deletes() && objects[i].kind == "") && c.Before != c.After {
			standing = append(standing, c)
		}
	}
	return standing
}

// repairHead makes HEAD, and so the default branch, name a branch that exists: a first push may bring "master" only.
func (s *Server) repairHead(ctx context.Context, dir string, moved []command) error {
	head, err := readHead(dir)
	if err != nil {
		return err
	}
	if _, err := s.output(ctx, dir, nil, "rev-parse", "--quiet", "--verify", head); err == nil {
		return nil
	}
	best := ""
	for _, c := range moved {
		if !strings.HasPrefix(c.Ref, "refs/heads/") || c.deletes() {
			continue
		}
		if best == "" || c.Ref == "refs/heads/master" || c.Ref == "refs/heads/"+DefaultBranch {
			best = c.Ref
		}
	}
	if best == "" {
		return nil
	}
	_, err = s.output(ctx, dir, nil, "symbolic-ref", "HEAD", best)
	return err
}

// event turns a moved ref into an event that lacks its commit, or returns false if the ref is neither a branch nor a tag, or if
// it is a tag that was deleted.
func (c command) event(repo repository, id string) (ci.Event, bool) {
	event := ci.Event{Ref: c.Ref, After: c.After, Sender: repo.user, By: repo.by, Delivery: id + " " + c.Ref}
	if branch, ok := strings.CutPrefix(c.Ref, "refs/heads/"); ok {
		if c.deletes() {
			event.Kind, event.Before, event.After, event.Source, event.Target = ci.Delete, c.Before, "", branch, branch
			return event, true
		}
		event.Kind, event.Source, event.Target = ci.Push, branch, branch
		if !c.creates() {
			event.Before = c.Before
		}
		return event, true
	}
	event.Kind = ci.Tag
	return event, strings.HasPrefix(c.Ref, "refs/tags/") && !c.deletes()
}

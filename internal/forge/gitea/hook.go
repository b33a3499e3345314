package gitea

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"slipway/internal/ci"
	"slipway/internal/forge"
)

// Hook reads a webhook.
//
//   - "push" gives a push for a branch and a tag for a tag; of a branch that was deleted, it gives that. The "create" and
//     "delete" hooks say the same again and are ignored.
//   - "pull_request" gives a pull request when it was opened, reopened or got new commits.
//
// The event's delivery is made of the body: the id that the forge sends along is not covered by the signature, and
// somebody who recorded a webhook could send it again under a new id.
func (f *Forge) Hook(_ context.Context, repo forge.Repo, header http.Header, body []byte) (ci.Event, string, error) {
	if len(body) > forge.MaxHook {
		return ci.Event{}, "", fmt.Errorf("the webhook of %s is larger than %d MiB", repo.Name, forge.MaxHook>>20)
	}
	if !signed(repo.WebhookSecret, header, body) {
		return ci.Event{}, "", fmt.Errorf("%w: the secret of the webhook at the forge must be the one that `slipway repo add` made for %s", forge.ErrForged, repo.Name)
	}
	event, reason, err := parse(repo.Name, header.Get("X-Gitea-Event"), body)
	if err != nil || reason != "" {
		return ci.Event{}, reason, err
	}
	sum := sha256.Sum256(body)
	event.Delivery = "sha256:" + hex.EncodeToString(sum[:])
	return event, "", nil
}

// signed reports whether the body carries a signature made with the secret. Nothing is signed with an empty one.
func signed(secret string, header http.Header, body []byte) bool {
	text := header.Get("X-Gitea-Signature")
	if text == "" {
		text, _ = strings.CutPrefix(header.Get("X-Hub-Signature-256"), "sha256=")
	}
	signature, err := hex.DecodeString(text)
	if err != nil || secret == "" {
		return false
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return hmac.Equal(signature, mac.Sum(nil))
}

// errShape is for a webhook which lacks what every Gitea sends.
var errShape = errors.New("the webhook is not like one of Gitea's")

// parse reads the body of a webhook that is known to be genuine.
func parse(name, kind string, body []byte) (event ci.Event, reason string, err error) {
	switch kind {
	case "push":
		var hook pushHook
		if err := read(body, &hook, &hook.Repository, name); err != nil {
			return ci.Event{}, "", err
		}
		return hook.event()
	case "pull_request", "pull_request_sync":
		var hook pullHook
		if err := read(body, &hook, &hook.Repository, name); err != nil {
			return ci.Event{}, "", err
		}
		return hook.event()
	default:
		return ci.Event{}, fmt.Sprintf("Slipway has no use for the webhook event %.40q", kind), nil
	}
}

// read decodes a webhook, which must be about the repo of that name. Names are not case-sensitive in Gitea.
func read(body []byte, hook any, about *repository, name string) error {
	if err := json.Unmarshal(body, hook); err != nil {
		return fmt.Errorf("%w: %w; its content type must be application/json", errShape, err)
	}
	if !strings.EqualFold(about.FullName, name) {
		return fmt.Errorf("the webhook is about %.100q, but was sent to the address of %s", about.FullName, name)
	}
	return nil
}

// The parts of webhooks that are used.
type (
	repository struct {
		ID       int64  `json:"id"`
		FullName string `json:"full_name"`
	}
	account struct {
		Login    string `json:"login"`
		FullName string `json:"full_name"`
		Email    string `json:"email"`
		Avatar   string `json:"avatar_url"`
	}
	pushHook struct {
		Ref        string     `json:"ref"`
		Before     string     `json:"before"`
		After      string     `json:"after"`
		Compare    string     `json:"compare_url"`
		Repository repository `json:"repository"`
		Sender     account    `json:"sender"`
		Head       *struct {
			ID      string `json:"id"`
			Message string `json:"message"`
			URL     string `json:"url"`
			Author  struct {
				Name     string `json:"name"`
				Email    string `json:"email"`
				Username string `json:"username"`
			} `json:"author"`
			Time time.Time `json:"timestamp"`
		} `json:"head_commit"`
	}
	pullHook struct {
		Action     string     `json:"action"`
		Number     int64      `json:"number"`
		Repository repository `json:"repository"`
		Sender     account    `json:"sender"`
		Pull       struct {
			Title  string    `json:"title"`
			Body   string    `json:"body"`
			Draft  bool      `json:"draft"`
			State  string    `json:"state"`
			Link   string    `json:"html_url"`
			Author account   `json:"user"`
			Time   time.Time `json:"updated_at"`
			Head   side      `json:"head"`
			Base   side      `json:"base"`
		} `json:"pull_request"`
	}
	// side is the head or the base of a pull request. Label is empty if the head is no branch.
	side struct {
		Label      string      `json:"label"`
		Ref        string      `json:"ref"`
		Commit     string      `json:"sha"`
		Repository *repository `json:"repo"`
	}
)

// zero reports whether hash stands for a ref that is not there.
func zero(hash string) bool { return strings.Trim(hash, "0") == "" }

func (h *pushHook) event() (ci.Event, string, error) {
	if zero(h.After) && hashPattern.MatchString(h.After) {
		branch, ok := strings.CutPrefix(h.Ref, "refs/heads/")
		if !ok || branch == "" {
			return ci.Event{}, fmt.Sprintf("%.200s was deleted", h.Ref), nil
		}
		if !hashPattern.MatchString(h.Before) {
			return ci.Event{}, "", errShape
		}
		return ci.Event{Kind: ci.Delete, Ref: h.Ref, Before: h.Before, Source: branch, Target: branch, Sender: h.Sender.Login}, "", nil
	}
	event := ci.Event{Ref: h.Ref, After: h.After, Sender: h.Sender.Login}
	if branch, ok := strings.CutPrefix(h.Ref, "refs/heads/"); ok && branch != "" {
		event.Kind, event.Source, event.Target = ci.Push, branch, branch
		if !zero(h.Before) {
			event.Before, event.Link = h.Before, h.Compare
		}
	} else if tag, ok := strings.CutPrefix(h.Ref, "refs/tags/"); ok && tag != "" {
		event.Kind = ci.Tag
		if h.Head != nil {
			event.After = h.Head.ID // after is the tag itself if it is an annotated one
		}
	} else {
		return ci.Event{}, fmt.Sprintf("%.200q is neither a branch nor a tag", h.Ref), nil
	}
	if !hashPattern.MatchString(event.After) || event.Before != "" && !hashPattern.MatchString(event.Before) {
		return ci.Event{}, "", errShape
	}
	if h.Head != nil && h.Head.ID == event.After {
		a := h.Head.Author
		event.Commit = ci.Commit{Message: h.Head.Message, Link: h.Head.URL, Author: ci.Signature{
			Login: a.Username, Name: a.Name, Email: a.Email, Time: h.Head.Time,
		}}
		if event.Commit.Author.Login == h.Sender.Login {
			event.Commit.Author.Avatar = h.Sender.Avatar
		}
		if event.Link == "" {
			event.Link = h.Head.URL // there is nothing to compare with
		}
	}
	return event, "", nil
}

func (h *pullHook) event() (ci.Event, string, error) {
	switch h.Action {
	case "opened", "reopened", "synchronized":
	default:
		return ci.Event{}, fmt.Sprintf("a pull request that was %.40q starts nothing", h.Action), nil
	}
	p := &h.Pull
	if p.State == "closed" {
		return ci.Event{}, fmt.Sprintf("pull request %d is closed", h.Number), nil
	}
	if h.Number <= 0 || p.Base.Ref == "" || !hashPattern.MatchString(p.Head.Commit) || zero(p.Head.Commit) ||
		p.Base.Repository == nil || p.Base.Repository.ID != h.Repository.ID {
		return ci.Event{}, "", errShape
	}
	source := p.Head.Ref
	if p.Head.Label != "" && !strings.HasPrefix(p.Head.Label, "refs/") {
		source = p.Head.Label // the ref is refs/pull/... once the branch is gone
	}
	event := ci.Event{
		Kind:   ci.PullRequest,
		Action: h.Action,
		Ref:    fmt.Sprintf("refs/pull/%d/head", h.Number),
		After:  p.Head.Commit,
		Source: source,
		Target: p.Base.Ref,
		Sender: h.Sender.Login,
		Link:   p.Link,
		Commit: ci.Commit{
			Message: strings.TrimSpace(p.Title + "\n\n" + p.Body), // the webhook doesn't bring the commit's own
			Link:    p.Link,
			Author:  ci.Signature{Login: p.Author.Login, Name: cmp.Or(p.Author.FullName, p.Author.Login), Email: p.Author.Email, Avatar: p.Author.Avatar, Time: p.Time},
		},
		PullRequest: &ci.Change{Number: h.Number, Title: p.Title, Draft: p.Draft, Fork: h.foreign()},
	}
	if hashPattern.MatchString(p.Base.Commit) {
		event.Before = p.Base.Commit
	}
	if p.Head.Repository != nil {
		event.PullRequest.HeadRepo = p.Head.Repository.FullName
	}
	return event, "", nil
}

// foreign reports whether the head may come from somebody who cannot write to the repo. It does unless it is proved to
// be a branch of the repo: the head's repository may be gone, and in the AGit flow (a push to refs/for/main, for which
// reading is enough) Gitea names the base as the head's repository, but no branch.
func (h *pullHook) foreign() bool {
	head := h.Pull.Head
	return head.Repository == nil || head.Repository.ID == 0 || head.Repository.ID != h.Repository.ID ||
		!strings.EqualFold(head.Repository.FullName, h.Repository.FullName) ||
		head.Label == "" || strings.HasPrefix(head.Ref, "refs/")
}

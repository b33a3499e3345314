package retention

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"slipway/internal/store"
)

// State is what there is in a repository, and what the rest of the world knows of it.
type State struct {
	Now  time.Time
	Tags []store.Tag
	// Manifests have their References, and no Content. Deleted ones count for nothing.
	Manifests []store.Manifest
	// Usage has the images that somebody runs or may go back to.
	Usage
	// Branches are the names of the branches that go on: not deleted and not merged. Nil means that they are not known, and
	// no tag goes for its branch.
	Branches []string
	// Over reports whether by, from a tag's By, was a run that has ended.
	Over func(by string) bool
}

// Use says that somebody needs an image.
type Use struct {
	// Digest is the image's, or that of its configuration, by which some nodes know it. It may be empty if Name is the tag of
	// the repository by which the image is used: then it is what the tag points at.
	Digest string
	Name   string
	// Tag is the tag under which a run that is over pushed it, or empty. If a rule says of that tag that it goes with its
	// run, this is no reason to keep it.
	Tag string
	// Reason names the user, in words that follow "it stays:".
	Reason string
}

// Removal is a tag or an image that goes.
type Removal struct {
	// Tag is empty for an image that has none.
	Tag string `json:"tag,omitempty"`
	// Digest is what the tag points at, or the image's own.
	Digest string `json:"digest"`
	// Reason says why, in words that follow "goes, because".
	Reason string `json:"reason"`
	// Image is true if the image goes as well: no tag, index or user is left.
	Image bool `json:"image"`
	// Bytes is what nobody else in the repository needs then, manifests included.
	Bytes int64 `json:"bytes"`
}

// Spared is a tag or an image that a policy would delete, and that is in use.
type Spared struct {
	Tag    string `json:"tag,omitempty"`
	Digest string `json:"digest"`
	Reason string `json:"reason"`
}

// Decision is what a policy comes to.
type Decision struct {
	// Removals are the tags that go, the newest first, and then the images that have none.
	Removals []Removal `json:"removals"`
	Spared   []Spared  `json:"spared,omitempty"`
	// Warnings are sentences about what could not be decided.
	Warnings []string `json:"warnings,omitempty"`
	// Bytes is the sum of what goes, as far as no other repository has it.
	Bytes int64 `json:"bytes"`
}

// Decide says what the policy removes from the repository. What is in use stays, with all that it needs and all that is
// about it, and so do the tags that point at it.
func (p Policy) Decide(s State) Decision {
	g := newGraph(s, p.transient)
	decision := Decision{Removals: []Removal{}}
	tags := slices.Clone(s.Tags)
	// The newest first; of the same time, by name, so that the same question has the same answer.
	slices.SortFunc(tags, func(a, b store.Tag) int {
		return cmp.Or(b.Updated.Compare(a.Updated), strings.Compare(a.Name, b.Name))
	})
	doomed := map[string]string{} // digest to why its last tag went
	left := map[string]bool{}     // digests with a tag that stays
	judge := newJudge(p, s)
	for _, tag := range tags {
		reason := judge.reason(tag, judge.count(tag.Name))
		if reason != "" {
			if user := cmp.Or(g.used[tag.Digest], s.Unasked); user != "" {
				decision.Spared = append(decision.Spared, Spared{tag.Name, tag.Digest, reason + "; it stays: " + user})
				reason = ""
			}
		}
		if reason == "" {
			left[tag.Digest] = true
			continue
		}
		decision.Removals = append(decision.Removals, Removal{Tag: tag.Name, Digest: tag.Digest, Reason: reason})
		doomed[tag.Digest] = reason
	}
	if s.Unasked != "" {
		decision.Warnings = append(decision.Warnings, "nothing goes now: "+s.Unasked)
	}
	if s.Asking != "" {
		decision.Warnings = append(decision.Warnings, s.Asking)
	}
	for i, r := range p.Rules {
		if r.Branch && s.Branches == nil && judge.seen[i] > 0 {
			decision.Warnings = append(decision.Warnings, "the tags "+r.Tags+" do not go with their branches: the branches of this repository are not known here")
		}
	}

	for _, m := range g.manifests {
		if p.Untagged == 0 || left[m.Digest] || doomed[m.Digest] != "" || s.Now.Sub(m.Used) < time.Duration(p.Untagged) {
			continue
		}
		why := fmt.Sprintf("it has had no tag for %s", p.Untagged)
		if user := cmp.Or(g.used[m.Digest], s.Unasked); user == "" {
			doomed[m.Digest] = why
		} else {
			decision.Spared = append(decision.Spared, Spared{"", m.Digest, why + "; it stays: " + user})
		}
	}
	for _, digest := range slices.Sorted(maps.Keys(doomed)) {
		g.takeAlong(digest, doomed)
	}
	for _, m := range g.manifests {
		if left[m.Digest] || doomed[m.Digest] == "" || g.used[m.Digest] != "" {
			g.keep(m.Digest)
		}
	}
	g.settle(doomed, &decision)
	return decision
}

// judge applies the rules of a policy to one tag after the other.
type judge struct {
	Policy
	state State
	// seen counts the tags that each rule was for; open has, by rule, the tags of branches that go on.
	seen []int
	open []map[string]bool
}

// verdict is which rule is for a tag, or -1, and which place the tag has among those of its rule; the newest has 1.
type verdict struct{ rule, place int }

func newJudge(p Policy, s State) *judge {
	j := &judge{p, s, make([]int, len(p.Rules)), make([]map[string]bool, len(p.Rules))}
	for i, r := range p.Rules {
		if r.Branch {
			j.open[i] = r.branchTags(s.Branches)
		}
	}
	return j
}

// count finds the rule for a tag. It must see all tags before it, the newest first.
func (j *judge) count(tag string) verdict {
	i := j.ruleOf(tag)
	if i < 0 {
		return verdict{rule: i}
	}
	j.seen[i]++
	return verdict{i, j.seen[i]}
}

// reason says why a tag goes, or "" if it stays.
func (j *judge) reason(tag store.Tag, v verdict) string {
	if v.rule < 0 || v.place <= j.Rules[v.rule].Keep {
		return ""
	}
	r, s := j.Rules[v.rule], j.state
	alone := r.OlderThan == 0 && !r.Branch && !r.Run
	switch {
	case alone:
		return fmt.Sprintf("%s keeps the newest %d", r.Tags, r.Keep)
	case r.OlderThan > 0 && s.Now.Sub(tag.Updated) >= time.Duration(r.OlderThan):
		return fmt.Sprintf("%s go after %s, and this is of %s", r.Tags, r.OlderThan, tag.Updated.Format(time.DateOnly))
	case r.Branch && s.Branches != nil && !j.open[v.rule][tag.Name]:
		return fmt.Sprintf("the branch that %s names is deleted or merged", r.Tags)
	case r.Run && s.Over != nil && s.Over(tag.By):
		return fmt.Sprintf("%s is over, and %s go with their run", tag.By, r.Tags)
	}
	return ""
}

// transient reports whether a tag goes with its run.
func (p Policy) transient(tag string) bool {
	i := p.ruleOf(tag)
	return i >= 0 && p.Rules[i].Run
}

// branchTags returns the tags that a rule knows of branches.
func (r Rule) branchTags(branches []string) map[string]bool {
	before, after, _ := strings.Cut(r.Tags, "*")
	tags := map[string]bool{}
	for _, branch := range branches {
		tags[before+asTag(branch)+after] = true
	}
	return tags
}

// asTag is a branch's name as it can be in a tag.
func asTag(branch string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.ContainsRune("._-", c):
			return c
		}
		return '-'
	}, branch)
}

// graph is which manifests need which.
type graph struct {
	manifests []store.Manifest
	by        map[string]store.Manifest
	// subjects has the digests of what is about a manifest.
	subjects map[string][]string
	// used says of a manifest who needs it: for itself, for an image of it, or for the index that it is in.
	used map[string]string
	kept map[string]bool
}

func newGraph(s State, transient func(tag string) bool) *graph {
	g := &graph{by: map[string]store.Manifest{}, subjects: map[string][]string{}, used: map[string]string{}, kept: map[string]bool{}}
	parents := map[string][]string{}
	for _, m := range s.Manifests {
		if !m.Deleted.IsZero() {
			continue
		}
		g.manifests = append(g.manifests, m)
		g.by[m.Digest] = m
		if m.Subject != "" {
			g.subjects[m.Subject] = append(g.subjects[m.Subject], m.Digest)
		}
		for _, r := range m.References {
			if r.Manifest {
				parents[r.Digest] = append(parents[r.Digest], m.Digest)
			}
		}
	}
	tags := map[string]string{}
	for _, tag := range s.Tags {
		tags[tag.Name] = tag.Digest
	}
	blobs := map[string]string{} // digests that are no manifest's, to who needs them
	for _, use := range s.Uses {
		use.Digest = cmp.Or(use.Digest, tags[use.Name])
		if use.Tag != "" && transient(use.Tag) {
			continue
		}
		if _, ok := g.by[use.Digest]; ok {
			g.spread(use.Digest, use.Reason, parents)
		} else {
			blobs[use.Digest] = use.Reason
		}
	}
	for _, m := range g.manifests {
		for _, r := range m.References {
			if user := blobs[r.Digest]; user != "" && !r.Manifest {
				g.spread(m.Digest, user, parents)
			}
		}
	}
	return g
}

// spread notes that user needs the manifest: it, and the indexes by which it was found.
func (g *graph) spread(digest, user string, parents map[string][]string) {
	if _, ok := g.by[digest]; !ok || g.used[digest] != "" {
		return
	}
	g.used[digest] = user
	for _, parent := range parents[digest] {
		g.spread(parent, user, parents)
	}
}

// takeAlong dooms what belongs to a doomed manifest: the images of an index, and what is about it. What was pushed since
// may be for another one that is on its way.
func (g *graph) takeAlong(digest string, doomed map[string]string) {
	m := g.by[digest]
	below := slices.Clone(g.subjects[digest])
	for _, r := range m.References {
		if r.Manifest {
			below = append(below, r.Digest)
		}
	}
	for _, child := range below {
		c, ok := g.by[child]
		if ok && doomed[child] == "" && (c.Subject == digest || !c.Used.After(m.Used)) {
			doomed[child] = "it belongs to " + short(digest) + ", which goes"
			g.takeAlong(child, doomed)
		}
	}
}

func short(digest string) string { return digest[:min(len(digest), 19)] }

// keep keeps a manifest, what it refers to and what is about it.
func (g *graph) keep(digest string) {
	m, ok := g.by[digest]
	if !ok || g.kept[digest] {
		return
	}
	g.kept[digest] = true
	for _, r := range m.References {
		if r.Manifest {
			g.keep(r.Digest)
		}
	}
	for _, about := range g.subjects[digest] {
		g.keep(about)
	}
}

// settle adds the images that go to the decision, and counts their bytes.
func (g *graph) settle(doomed map[string]string, decision *Decision) {
	needed := map[string]bool{}
	for digest := range g.kept {
		for _, r := range g.by[digest].References {
			needed[r.Digest] = true
		}
	}
	gone := map[string]bool{}
	goes := func(digest string) bool { return g.by[digest].Digest != "" && !g.kept[digest] && !gone[digest] }
	take := func(digest string) int64 {
		gone[digest] = true
		bytes := g.by[digest].Size
		for _, r := range g.by[digest].References {
			if !r.Manifest && !needed[r.Digest] {
				needed[r.Digest] = true // counted once
				bytes += r.Size
			}
		}
		decision.Bytes += bytes
		return bytes
	}
	// An image goes with the last of its tags, which is the last that is named.
	for i := range slices.Backward(decision.Removals) {
		if r := &decision.Removals[i]; goes(r.Digest) {
			r.Image, r.Bytes = true, take(r.Digest)
		}
	}
	for _, m := range g.manifests {
		if goes(m.Digest) {
			decision.Removals = append(decision.Removals, Removal{Digest: m.Digest, Reason: doomed[m.Digest], Image: true, Bytes: take(m.Digest)})
		}
	}
}

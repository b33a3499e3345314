// Package retention decides which tags and images of a registry's repository are kept and which go, by policies that
// people write.
//
// A [Policy] is read by [Parse]; [Policy.Decide] is the decision, a pure function of what there is. [Cleaner] finds out
// what there is, and deletes what was decided; deleted images can be restored for the registry's grace period.
package retention

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Policy says what a repository keeps.
type Policy struct {
	// Immutable are patterns of tags that nobody can move or delete by pushing; rules may delete them.
	Immutable []string `yaml:"immutable,omitempty"`
	// Rules say which tags go. The first whose pattern fits a tag decides; a tag that none fits stays.
	Rules []Rule `yaml:"rules,omitempty"`
	// Untagged is after how long an image without a tag goes; 0 means never.
	Untagged Age `yaml:"untagged,omitempty"`
}

// Rule says which of the tags that it is for go. At least one of its conditions is set; a tag goes if it is not among the
// newest Keep and, of the others, one that is set holds.
type Rule struct {
	// Tags is a pattern as of [path.Match]: * is anything, ? is one character.
	Tags string `yaml:"tags"`
	// Keep is how many of the newest tags stay, whatever else is said. Alone it says that all others go.
	Keep int `yaml:"keep,omitempty"`
	// OlderThan is the age from which a tag goes.
	OlderThan Age `yaml:"older_than,omitempty"`
	// Branch makes a tag go when its branch has: Tags has one *, which stands for the branch's name, with every character
	// that tags cannot have replaced by "-".
	Branch bool `yaml:"branch,omitempty"`
	// Run makes a tag go with the run that pushed it, when that is over.
	Run bool `yaml:"run,omitempty"`
}

// maxPolicy bounds a policy's text, in bytes, and maxRules its rules.
const (
	maxPolicy = 64 << 10
	maxRules  = 100
)

// Parse reads a policy. Its error is a sentence for people.
func Parse(text string) (Policy, error) {
	var p Policy
	if len(text) > maxPolicy {
		return p, fmt.Errorf("the policy has %d bytes, and may have %d", len(text), maxPolicy)
	}
	decoder := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&p); err != nil && !errors.Is(err, io.EOF) {
		return Policy{}, fmt.Errorf("the policy cannot be read: %w", err)
	}
	if len(p.Rules) > maxRules || len(p.Immutable) > maxRules {
		return Policy{}, fmt.Errorf("the policy has more than %d rules", maxRules)
	}
	for i, pattern := range p.Immutable {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			return Policy{}, fmt.Errorf("immutable[%d]: %q is not a pattern of tags, such as v*", i, pattern)
		}
	}
	for i, r := range p.Rules {
		_, err := path.Match(r.Tags, "")
		switch {
		case err != nil, r.Tags == "":
			return Policy{}, fmt.Errorf("rules[%d]: %q is not a pattern of tags, such as v*", i, r.Tags)
		case r.Keep < 0:
			return Policy{}, fmt.Errorf("rules[%d]: keep is a number of tags, not %d", i, r.Keep)
		case r.Keep == 0 && r.OlderThan == 0 && !r.Branch && !r.Run:
			return Policy{}, fmt.Errorf("rules[%d]: say when the tags %s go: keep, older_than, branch or run", i, r.Tags)
		case r.Branch && (strings.Count(r.Tags, "*") != 1 || strings.ContainsAny(r.Tags, `?[\`)):
			return Policy{}, fmt.Errorf("rules[%d]: with branch, the pattern has one * for the branch's name, such as branch-*; %q has not", i, r.Tags)
		}
	}
	return p, nil
}

// Fixed reports whether the tag is immutable.
func (p Policy) Fixed(tag string) bool {
	for _, pattern := range p.Immutable {
		if matches(pattern, tag) {
			return true
		}
	}
	return false
}

func matches(pattern, tag string) bool {
	ok, err := path.Match(pattern, tag)
	return ok && err == nil // Parse has tried it
}

// Age is a time span, written as 90m, 36h, 7d or 2w.
type Age time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (a *Age) UnmarshalYAML(node *yaml.Node) error {
	d, err := parseAge(node.Value)
	if err != nil {
		return fmt.Errorf("line %d: %w", node.Line, err)
	}
	*a = Age(d)
	return nil
}

func parseAge(s string) (time.Duration, error) {
	wrong := fmt.Errorf("%.40q is not an age, such as 36h, 7d or 2w", s)
	day := map[byte]int64{'d': 1, 'w': 7}
	if s == "" {
		return 0, wrong
	}
	if days := day[s[len(s)-1]]; days > 0 {
		n, err := strconv.ParseUint(s[:len(s)-1], 10, 16)
		if err != nil || n == 0 {
			return 0, wrong
		}
		return time.Duration(int64(n)*days) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, wrong
	}
	return d, nil
}

// String writes an age as people do.
func (a Age) String() string {
	d := time.Duration(a)
	if day := 24 * time.Hour; d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	text := d.String()
	if d%time.Minute == 0 {
		text = strings.TrimSuffix(text, "0s")
	}
	if d%time.Hour == 0 {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

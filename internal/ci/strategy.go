package ci

import (
	"cmp"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// StrategyKind names a strategy.
type StrategyKind string

// The strategies.
const (
	// Rolling leaves it to Kubernetes: the update strategy of each workload. A step says so to override its environment.
	Rolling StrategyKind = "rolling"
	// Recreate ends all pods of the old version before the first of the new one begins.
	Recreate StrategyKind = "recreate"
	// BlueGreen brings the new version up in full beside the old one, and moves all traffic at once.
	BlueGreen StrategyKind = "blue-green"
	// Canary gives the new version a growing share of the traffic.
	Canary StrategyKind = "canary"
)

// StrategyKinds lists all strategies.
func StrategyKinds() []StrategyKind { return []StrategyKind{Rolling, Recreate, BlueGreen, Canary} }

// Strategy is how a new version takes the place of the old one.
type Strategy struct {
	Kind StrategyKind `json:"kind"`
	// Deployments are the names of those that it is for; the others roll. None means all.
	Deployments []string `json:"deployments,omitempty"`
	// Steps are those of a canary; none means [DefaultSteps].
	Steps []StrategyStep `json:"steps,omitempty"`
	// Checks must hold at each step of a canary, and before the switch of blue-green.
	Checks []Check `json:"checks,omitempty"`
	// Manual makes blue-green wait before the switch until somebody says so.
	Manual bool `json:"manual,omitempty"`
	// Keep is for how many seconds blue-green keeps the old version after the switch, so that going back takes no time.
	Keep int64 `json:"keep,omitempty"`
	// After are the checks that must hold while blue-green keeps the old version.
	After []Check `json:"after,omitempty"`
}

// StrategyStep is a step of a canary.
type StrategyStep struct {
	// Weight is the share of the traffic that goes to the new version, in percent.
	Weight int64 `json:"weight"`
	// Pause is for how many seconds it stays so, at least.
	Pause int64 `json:"pause,omitempty"`
	// Manual makes it stay so until somebody says that it should go on.
	Manual bool `json:"manual,omitempty"`
	// Checks must hold at this step, beside those of the strategy.
	Checks []Check `json:"checks,omitempty"`
}

// DefaultSteps are those of a canary that has none.
func DefaultSteps() []StrategyStep {
	return []StrategyStep{{Weight: 10, Pause: 60}, {Weight: 50, Pause: 60}}
}

// DefaultCheckInterval is the time between two tries of a check, in seconds.
const DefaultCheckInterval = 10

// Check asks whether the new version is well: by an HTTP request, or by a query of Prometheus if Query is set.
type Check struct {
	// Name is what people call it; empty means the URL or the query.
	Name string `json:"name,omitempty"`
	// URL is what is asked by GET. If it is only a path, the new version is asked, by way of the API server. With Query it is the address of
	// Prometheus, below which its API is at /api/v1.
	URL string `json:"url"`
	// Login is for a URL with a host.
	Login
	// Status is the answer that an HTTP check wants; 0 means any from 200 to 299.
	Status int `json:"status,omitempty"`
	// Query is in PromQL. Its answer is a number or a vector; Condition, such as "< 0.01", must hold for each value of it, and there must be one.
	Query     string `json:"query,omitempty"`
	Condition string `json:"condition,omitempty"`
	// Interval is the time between two tries in seconds; 0 means [DefaultCheckInterval].
	Interval int64 `json:"interval,omitempty"`
	// Count is how often it must hold before a step is over; 0 means once. It is asked until the end of the step all the same.
	Count int `json:"count,omitempty"`
	// Failures is how often it may fail in a step; once more, and the release is taken back.
	Failures int `json:"failures,omitempty"`
}

// String is what people call the check.
func (c Check) String() string { return cmp.Or(c.Name, c.Query, c.URL) }

// Bounds of a strategy.
const (
	maxSteps  = 100
	maxChecks = 20
	maxText   = 10_000         // bytes
	maxPause  = 30 * 24 * 3600 // seconds
	maxCount  = 100_000
)

// Validate reports the first thing that is wrong with s, in words that fit behind the name of where it is written.
func (s Strategy) Validate() error {
	if !slices.Contains(StrategyKinds(), s.Kind) {
		return fmt.Errorf("has no strategy %q; there are %s", s.Kind, list(StrategyKinds()))
	}
	only := func(kind StrategyKind, what string, set bool) error {
		if set && s.Kind != kind {
			return fmt.Errorf("has %s, which only %s has, and not %s", what, kind, s.Kind)
		}
		return nil
	}
	checked := s.Kind == Canary || s.Kind == BlueGreen
	for _, err := range []error{
		only(Canary, "steps", len(s.Steps) > 0), only(BlueGreen, "manual", s.Manual), only(BlueGreen, "keep", s.Keep != 0), only(BlueGreen, "after", len(s.After) > 0),
	} {
		if err != nil {
			return err
		}
	}
	switch {
	case len(s.Checks) > 0 && !checked:
		return fmt.Errorf("has checks, which only %s and %s have, and not %s", Canary, BlueGreen, s.Kind)
	case len(s.Deployments) > 0 && s.Kind == Rolling:
		return fmt.Errorf("has deployments, but %s is for all", Rolling)
	case len(s.Steps) > maxSteps:
		return fmt.Errorf("has %d steps; at most %d are allowed", len(s.Steps), maxSteps)
	case len(s.Deployments) > 1000:
		return fmt.Errorf("has %d deployments; at most 1000 are allowed", len(s.Deployments))
	case s.Keep < 0 || s.Keep > maxPause:
		return fmt.Errorf("must keep the old version for at most 30 days")
	}
	var weight int64 = -1
	for i, step := range s.Steps {
		if err := step.Validate(); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		if step.Weight <= weight {
			return fmt.Errorf("step %d: the weight %d must be more than the %d before it", i+1, step.Weight, weight)
		}
		weight = step.Weight
	}
	if err := validateChecks(s.Checks); err != nil {
		return err
	}
	return validateChecks(s.After)
}

// AllChecks returns the checks of s, wherever they are.
func (s Strategy) AllChecks() []Check {
	all := slices.Concat(s.Checks, s.After)
	for _, step := range s.Steps {
		all = append(all, step.Checks...)
	}
	return all
}

// AsksOthers reports whether a check asks another server than the new version, from the machine that deploys.
func (s Strategy) AsksOthers() bool {
	return slices.ContainsFunc(s.AllChecks(), func(c Check) bool { return !strings.HasPrefix(c.URL, "/") })
}

// Validate reports the first thing that is wrong with a step by itself.
func (s StrategyStep) Validate() error {
	switch {
	case s.Weight < 0 || s.Weight > 100:
		return fmt.Errorf("the weight %d must be a percentage from 0 to 100", s.Weight)
	case s.Pause < 0 || s.Pause > maxPause:
		return fmt.Errorf("a pause is at most 30 days")
	case s.Pause > 0 && s.Manual:
		return fmt.Errorf("a step has a pause or is manual, not both")
	}
	return validateChecks(s.Checks)
}

func validateChecks(checks []Check) error {
	if len(checks) > maxChecks {
		return fmt.Errorf("has %d checks; at most %d are allowed", len(checks), maxChecks)
	}
	for i, c := range checks {
		if err := c.Validate(); err != nil {
			return fmt.Errorf("check %d: %w", i+1, err)
		}
	}
	return nil
}

// Validate reports the first thing that is wrong with a check.
func (c Check) Validate() error {
	u, err := url.Parse(c.URL)
	path := strings.HasPrefix(c.URL, "/") && !strings.HasPrefix(c.URL, "//")
	absolute := err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
	switch {
	case c.URL == "":
		return fmt.Errorf("a check needs a url")
	case len(c.Name)+len(c.URL)+len(c.Query) > maxText:
		return fmt.Errorf("its texts are longer than %d bytes", maxText)
	case err != nil || !path && !absolute:
		return fmt.Errorf("url must be an address that begins with http:// or https://, or a path such as /healthz of the new version")
	case u.User != nil:
		return fmt.Errorf("url may not have a password, because it would be shown in logs")
	case path && slices.Contains(strings.Split(u.Path, "/"), ".."):
		return fmt.Errorf("url may not have .., which would lead out of the new version's own service")
	case c.Query != "" && path:
		return fmt.Errorf("url must be the address of Prometheus, which begins with http:// or https://")
	case c.Query != "" && c.Status != 0:
		return fmt.Errorf("status is for checks without a query")
	case c.Query == "" && c.Condition != "":
		return fmt.Errorf("condition is for checks with a query")
	case c.Status != 0 && (c.Status < 100 || c.Status > 599):
		return fmt.Errorf("status %d is no status of HTTP", c.Status)
	case c.Interval < 0 || c.Interval > maxPause:
		return fmt.Errorf("interval must be from 1 second to 30 days")
	case c.Count < 0 || c.Count > maxCount || c.Failures < 0 || c.Failures > maxCount:
		return fmt.Errorf("count and failures must be from 0 to %d", maxCount)
	}
	if err := c.CheckFor(c.URL); err != nil {
		return err
	}
	if c.Query != "" {
		if _, err := ParseCondition(c.Condition); err != nil {
			return err
		}
	}
	return nil
}

// Condition is a comparison with a number.
type Condition struct {
	Operator string
	Value    float64
}

var condition = regexp.MustCompile(`^\s*(<=|>=|==|!=|<|>)\s*(\S+)\s*$`)

// ParseCondition reads a condition such as "< 0.01".
func ParseCondition(text string) (Condition, error) {
	m := condition.FindStringSubmatch(text)
	if m != nil {
		if value, err := strconv.ParseFloat(m[2], 64); err == nil && value == value {
			return Condition{m[1], value}, nil
		}
	}
	return Condition{}, fmt.Errorf(`condition must be a comparison with a number, such as "< 0.01", and not %q`, text)
}

// Holds reports whether the condition holds for a value. None holds for one that is not a number.
func (c Condition) Holds(value float64) bool {
	if value != value {
		return false
	}
	switch c.Operator {
	case "<":
		return value < c.Value
	case "<=":
		return value <= c.Value
	case ">":
		return value > c.Value
	case ">=":
		return value >= c.Value
	case "==":
		return value == c.Value
	}
	return value != c.Value
}

// String returns the condition as it is written.
func (c Condition) String() string {
	return c.Operator + " " + strconv.FormatFloat(c.Value, 'g', -1, 64)
}

func list[T ~string](all []T) string {
	texts := make([]string, len(all))
	for i, one := range all {
		texts[i] = string(one)
	}
	return strings.Join(texts[:len(texts)-1], ", ") + " and " + texts[len(texts)-1]
}
